#include <sessionlock/spawn_gate.hpp>

#include <algorithm>
#include <utility>

#include "hold/acquisition.hpp"
#include "hold/lock_queue.hpp"
#include "hold/lock_share.hpp"
#include "verdict/failure.hpp"

namespace sessionlock {
namespace {

/// A gate's file is nobody's session, so nothing is reported to anybody.
std::shared_ptr<const ManagerOptions> gate_manager(const GateOptions& gate) {
  ManagerOptions options;
  options.mode = gate.mode;
  return std::make_shared<const ManagerOptions>(std::move(options));
}

/// The age of its file from which a gate may be taken from its owner; none: never.
std::optional<std::chrono::milliseconds> mtime_limit(const GateOptions& gate) {
  return gate.stale_after > std::chrono::milliseconds{0} ? std::optional(gate.stale_after) : std::nullopt;
}

AcquireOptions acquire_options(const GateOptions& gate, std::chrono::milliseconds timeout) {
  AcquireOptions options;
  options.timeout = timeout;
  options.stop = gate.stop;
  if (const auto limit = mtime_limit(gate)) {
    options.max_hold = std::min(*limit, k_max_hold_max);
  }
  return options;
}

Result<void> check_path(const std::filesystem::path& path) {
  return path.empty() ? failure(Errc::invalid_argument, "enter gate", path, "the path is empty") : Result<void>{};
}

/// An acquire's error about a path that keeps changing names the session, and a gate has none.
Error gate_error(Error error) {
  if (error.code == Errc::replaced_session) {
    error.code = Errc::timed_out;
    error.operation = "enter gate";
    error.detail = "the path led to another directory each time the gate was entered";
  }
  return error;
}

}  // namespace

SpawnGate::SpawnGate(std::filesystem::path path, GateOptions options)
    : path_(std::move(path)), options_(std::move(options)) {}

Result<GateEntry> SpawnGate::try_enter() {
  if (auto checked = check_path(path_); !checked) {
    return tl::unexpected(std::move(checked).error());
  }
  retry_failed_releases();
  const AcquireOptions once = acquire_options(options_, std::chrono::milliseconds{0});
  auto lock = Acquisition(gate_manager(options_), path_, once, LockNaming::itself, mtime_limit(options_)).acquire();
  if (lock) {
    return GateEntry{GateOutcome::acquired, std::move(*lock), std::nullopt};
  }
  if (lock.error().code == Errc::locked) {
    return GateEntry{GateOutcome::busy, {}, std::move(lock.error().holder)};
  }
  return tl::unexpected(gate_error(std::move(lock).error()));
}

Result<void> SpawnGate::wait_until_done(std::chrono::milliseconds timeout, const std::optional<Inspection>& holder) {
  if (auto checked = check_path(path_); !checked) {
    return checked;
  }
  retry_failed_releases();
  const AcquireOptions options = acquire_options(options_, timeout);
  return Acquisition(gate_manager(options_), path_, options, LockNaming::itself, mtime_limit(options_))
      .wait_until_free(holder ? holder->record.lock_id : std::nullopt);
}

Result<void> SpawnGate::touch(const SessionLock& lock) {
  const auto& share = SessionLockAccess::share(lock);
  return lock.guarded([&]() -> Result<void> {
    const auto touched = sys::touch(share->hold->core().fd());
    if (!touched.ok()) {
      return failure(touched.code(), "futimens", lock.lock_path());
    }
    return {};
  });
}

}  // namespace sessionlock
