#pragma once

/// \file
/// What happens to the locks in a directory, told as it happens.

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>

#include <sessionlock/error.hpp>
#include <sessionlock/export.hpp>
#include <sessionlock/staleness.hpp>

namespace sessionlock {

/// What happened to a lock of any process.
enum class LockEventKind {
  held,       ///< It was there when the watch began.
  acquired,   ///< It came.
  released,   ///< It went, and nothing said before that its owner was gone.
  reclaimed,  ///< It went after its owner was seen to be gone: somebody took it over, or cleaned up.
  owner_died  ///< Its owner ended and left it behind, to nobody or to a program it gave the lock to.
};
/// "held", "acquired", "released", "reclaimed" or "owner-died". Lifetime: static storage.
[[nodiscard]] SESSIONLOCK_API std::string_view to_string(LockEventKind kind);

struct LockEvent {
  LockEventKind kind{LockEventKind::held};
  /// When it was noticed.
  std::chrono::sys_time<std::chrono::milliseconds> time{};
  /// The lock as it was last seen. Without a record where it came and went too fast to be read.
  Inspection lock{};
};

struct LockWatchOptions {
  /// Only files whose names end so.
  std::string suffix{".jsonl.lock"};
  StalePolicy stale{};
  /// Ends the watch.
  std::stop_token stop{};
  /// Is told once if no events can be had, and why; the directory is then looked through four times a second.
  std::function<void(const Error&)> degraded{};
};

/// Tells what happens to the locks in a directory, first of those that are there. Takes nothing and changes nothing.
///
/// A lock that comes and goes within the moment that it takes to look is told of, but not of everything in between. One
/// that is taken over in the very moment of its owner's death may be told as released.
/// Blocking: until `options.stop`, for ever without it. Errors: those of reading the directory, also when it is
/// removed; EBADF if the program has closed descriptors of the watch. What `tell` throws ends the watch and propagates.
[[nodiscard]] SESSIONLOCK_API Result<void> watch_locks(const std::filesystem::path& directory,
                                                       const LockWatchOptions& options,
                                                       const std::function<void(const LockEvent&)>& tell);

}  // namespace sessionlock
