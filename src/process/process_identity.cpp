#include <sessionlock/process_identity.hpp>

#include <string>
#include <system_error>

#include <errno.h>

#include "process/portable/ps_start_token.hpp"
#include "process/process_probe.hpp"
#include "process/this_process.hpp"

namespace sessionlock {

ProcessIdentity this_process() {
  return current_identity();
}

Result<ProcessIdentity> identify(pid_t pid) {
  if (pid < 1) {
    return tl::unexpected(
        Error{Errc::invalid_argument, "identify", {}, {}, "a pid is at least 1, not " + std::to_string(pid)});
  }
  const ProcessProbe probe = probe_process(pid);
  if (probe.pid == PidProbe::gone) {
    return tl::unexpected(
        Error{std::error_code(ESRCH, std::system_category()), "identify", {}, {}, "pid " + std::to_string(pid)});
  }
  // Its boot is ours; and pid and start time are told in our namespaces, wherever the process itself lives.
  ProcessIdentity identity = current_identity();
  identity.pid = pid;
  identity.start_time_ticks = probe.start_time_ticks;
  return identity;
}

std::optional<std::uint64_t> process_start_time(pid_t pid) {
  const auto stat = read_proc_stat(pid);
  return stat ? std::optional(stat->start_time_ticks) : std::nullopt;
}

std::optional<std::string> process_start_token(pid_t pid) {
#if defined(__linux__)
  // Never the other provider's as a substitute: tokens of two kinds would make one process look like two.
  const auto ticks = process_start_time(pid);
  return ticks ? std::optional(std::to_string(*ticks)) : std::nullopt;
#else
  return remembered_ps_start_token(pid);
#endif
}

Liveness process_liveness(pid_t pid) {
  switch (probe_process(pid).pid) {
    case PidProbe::gone:
      return Liveness::dead;
    case PidProbe::exists:
      return Liveness::alive;
    default:
      return Liveness::unknown;
  }
}

bool is_pid_alive(pid_t pid) {
  // A probe that can tell nothing proves no death.
  return probe_process(pid).pid != PidProbe::gone;
}

Match same_process(const ProcessIdentity& recorded, const ProcessIdentity& observed) {
  if (recorded.boot_id.empty() || observed.boot_id.empty()) {
    return Match::unknown;
  }
  if (recorded.boot_id != observed.boot_id) {
    return Match::different;
  }
  const bool same_numbering = recorded.pid_namespace != 0 && recorded.pid_namespace == observed.pid_namespace;
  if (!same_numbering || recorded.pid <= 0 || observed.pid <= 0) {
    return Match::unknown;
  }
  if (recorded.pid != observed.pid) {
    return Match::different;
  }
  if (recorded.time_namespace != observed.time_namespace || !recorded.start_time_ticks || !observed.start_time_ticks) {
    return Match::unknown;
  }
  return recorded.start_time_ticks == observed.start_time_ticks ? Match::same : Match::different;
}

}  // namespace sessionlock
