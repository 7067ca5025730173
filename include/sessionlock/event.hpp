#pragma once

/// \file
/// What an observer is called with.

#include <chrono>
#include <filesystem>
#include <optional>
#include <string_view>

#include <sessionlock/error.hpp>
#include <sessionlock/export.hpp>
#include <sessionlock/staleness.hpp>

namespace sessionlock {

/// Something that happened to a lock of this process.
enum class EventKind {
  acquired,        ///< `duration`: the wait; `inspection`: what was taken over, if anything.
  contended,       ///< Somebody else has it: `inspection`. Once for each acquire that has to wait.
  waiting,         ///< Still waiting, and for whom now: `inspection`. At growing intervals.
  released,        ///< `duration`: the hold.
  lost,            ///< The lock was found gone, or somebody else's.
  overrun,         ///< Held longer than `max_hold`: `duration`. At growing intervals.
  release_failed,  ///< `error`. It will be tried again.
  degraded         ///< The wait has to poll: `error` says why.
};
/// "acquired", "contended", … Lifetime: static storage.
[[nodiscard]] SESSIONLOCK_API std::string_view to_string(EventKind kind);

struct Event {
  EventKind kind{EventKind::acquired};
  std::filesystem::path session_path{};
  std::filesystem::path lock_path{};
  std::chrono::milliseconds duration{0};
  std::optional<Inspection> inspection{};
  std::optional<Error> error{};
};

}  // namespace sessionlock
