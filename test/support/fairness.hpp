#pragma once

/// \file
/// Processes that compete for one session, and what each of them got.

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace sessionlock::test {

/// What one process got.
struct Share {
  std::uint64_t acquisitions{};
  std::chrono::microseconds longest_wait{};
  std::chrono::microseconds waited{};
};

struct Competitor {
  /// It holds so long each time.
  std::chrono::microseconds hold{0};
  /// It rests so long after each turn; at zero it tries again at once.
  std::chrono::microseconds rest{0};
  /// It has no inotify watches and must poll.
  bool polls{false};
};

/// Processes acquire and release a session until the time is over. Every acquire is to succeed, or it throws.
[[nodiscard]] std::vector<Share> compete(const std::vector<Competitor>& competitors,
                                         std::chrono::milliseconds duration);

/// The longest of all waits.
[[nodiscard]] std::chrono::microseconds longest_wait(const std::vector<Share>& shares);

/// A table for people.
void print(const std::string& title, const std::vector<Share>& shares);

}  // namespace sessionlock::test
