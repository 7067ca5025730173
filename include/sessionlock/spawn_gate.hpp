#pragma once

/// \file
/// Run-once gates: of simultaneous callers one does the work, the others wait until it is done.

#include <chrono>
#include <filesystem>
#include <optional>
#include <stop_token>

#include <sys/types.h>

#include <sessionlock/error.hpp>
#include <sessionlock/export.hpp>
#include <sessionlock/session_lock.hpp>

namespace sessionlock {

struct GateOptions {
  /// A gate file whose mtime is longer ago is stale, whatever its owner does; zero: only the owner's end makes it so.
  std::chrono::milliseconds stale_after{std::chrono::seconds{60}};
  std::stop_token stop{};
  /// Permissions of the gate file, as `ManagerOptions::mode`. None: 0600, since there is no session to go by, so that
  /// other users cannot tell whether the process that has the gate is gone.
  std::optional<mode_t> mode{};
};

enum class GateOutcome {
  acquired,  ///< This caller is the one: do the work, then let `lock` go.
  busy       ///< Another is at it: `holder`.
};
struct GateEntry {
  GateOutcome outcome{GateOutcome::busy};
  SessionLock lock{};
  std::optional<Inspection> holder{};
};

/// A gate at a path of its own. Made of the same locks as sessions; only what counts as stale differs. An error is
/// neither of the two outcomes: whether to go on without the gate is the caller's decision. Thread safety: safe.
class SESSIONLOCK_API SpawnGate {
 public:
  /// `path` is the gate's lock file itself, such as `spawn.lock`. A symbolic link there is not followed.
  explicit SpawnGate(std::filesystem::path path, GateOptions options = {});

  /// One try, without waiting. Errors: `Errc::not_a_lock_file` for anything else than a lock file at the path: a
  /// symbolic link, a directory, a FIFO, a socket, a device, other content; system errors.
  [[nodiscard]] Result<GateEntry> try_enter();
  /// Waits until whoever is at it is done, or dead, without taking the gate. With the `holder` that `try_enter` found:
  /// until that one is, even if another has entered since.
  /// Blocking: `timeout`. Errors: `Errc::timed_out` with the holder, `Errc::cancelled`.
  [[nodiscard]] Result<void> wait_until_done(std::chrono::milliseconds timeout,
                                             const std::optional<Inspection>& holder = {});
  /// Sets the gate file's mtime to now, so that long work is not taken for stale. Errors: `Errc::lost`.
  [[nodiscard]] static Result<void> touch(const SessionLock& lock);

 private:
  std::filesystem::path path_;
  GateOptions options_;
};

}  // namespace sessionlock
