// `sessionlock gate`: of simultaneous callers one runs a program, and the others wait for its end.
//
// As in `run`, the program inherits the lock's descriptor, and a signal that comes before there is a program ends this
// process and leaves nothing behind.

#include <sessionlock/spawn_gate.hpp>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <fmt/core.h>

#include "cli/arguments.hpp"
#include "cli/command.hpp"
#include "cli/exit_status.hpp"
#include "cli/program.hpp"
#include "cli/signals.hpp"
#include "cli/verbose.hpp"

namespace sessionlock::cli {
namespace {

using std::chrono::milliseconds;

struct GateArguments {
  std::string file{};
  milliseconds stale_after{GateOptions{}.stale_after};
  milliseconds timeout{AcquireOptions::from_environment().timeout};
  std::optional<mode_t> mode{};
};

SpawnGate gate_of(const GateArguments& arguments, const Interruption& interruption) {
  GateOptions options;
  options.stop = interruption.token();
  options.stale_after = arguments.stale_after == milliseconds::max() ? milliseconds{0} : arguments.stale_after;
  options.mode = arguments.mode;
  return SpawnGate{arguments.file, options};
}

int run_program(SessionLock& lock, std::vector<std::string> program, SignalCatcher& signals) {
  signals.add(SIGCHLD);
  std::vector<std::string> variables = environment_with({{k_reclaimed_from, reclaimed_from_value(lock)}});
  const Result<pid_t> started =
      lock.spawn_with(program.front().c_str(), pointers_to(program).data(), pointers_to(variables).data());
  int status = k_failed;
  if (started) {
    status = wait_forwarding_signals(*started, signals);
  } else {
    const Error& error = started.error();
    status = error.code.category() == error_category() ? fail(error) : program_failure(error.code, program.front());
  }
  if (const Result<void> released = lock.release(); !released) {
    print_error(released.error().message());
    status = status == k_done ? k_failed : status;
  }
  return status;
}

int gate(const GateArguments& arguments, const std::vector<std::string>& program) {
  SignalCatcher signals{k_ending_signals};
  Result<GateEntry> entry = GateEntry{};
  Result<void> waited;
  {
    const Interruption interruption{signals};
    SpawnGate gate = gate_of(arguments, interruption);
    entry = gate.try_enter();
    if (entry && entry->outcome == GateOutcome::busy) {
      waited = gate.wait_until_done(arguments.timeout, entry->holder);
    }
  }
  if (entry) {
    print_take_over(entry->lock);
  }
  if (const int early = take_ending_signal(signals); early != 0) {
    if (entry) {
      static_cast<void>(entry->lock.release());
    }
    die_of(early);
  }
  if (!entry) {
    return fail(entry.error());
  }
  if (entry->outcome == GateOutcome::acquired) {
    return run_program(entry->lock, program, signals);
  }
  if (!waited) {
    return fail(waited.error());
  }
  const auto& holder = entry->holder;
  const std::string who =
      holder && holder->record.pid ? fmt::format("pid {}", *holder->record.pid) : std::string("another caller");
  print_error(fmt::format("not run: {} was at it already, and is done or dead", who));
  return k_done;
}

}  // namespace

Command declare_gate() {
  Command command{"gate", "Run a program once for all who ask at the same time"};
  const auto arguments = std::make_shared<GateArguments>();
  command.positional("FILE", arguments->file, "The gate, a lock file of its own");
  command.duration(
      "--stale-after", arguments->stale_after,
      "Age from which a gate counts as left behind, whatever its owner does (60s unless given; inf: never)");
  command.duration("--timeout", arguments->timeout, "Give up waiting for the other after this long (60s unless given)");
  add_mode(command, arguments->mode,
           "Permissions of the gate file, which others never get to write (0600 unless given)");
  command.footer =
      "COMMAND sees SESSIONLOCK_RECLAIMED_FROM, the dead owner's record, if the gate was taken over. The exit status "
      "is\n"
      "COMMAND's own, or 0 if another caller ran it; 128+N if signal N ended it, 126 or 127 if it cannot be run, 75 "
      "if\n"
      "the other is not done in time.";
  command.program_action = [arguments](const std::vector<std::string>& program) {
    return reporting_start_failure(program, [&] { return gate(*arguments, program); });
  };
  return command;
}

}  // namespace sessionlock::cli
