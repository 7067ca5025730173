#pragma once

/// \file
/// What a chaos run says at its end.

#include <chrono>
#include <cstdint>

#include "chaos/world.hpp"

namespace sessionlock::test::chaos {

/// What the director did and saw.
struct Blows {
  std::uint64_t kills{0}, stops{0}, starts{0};
  /// Starts that got the pid of the process before.
  std::uint64_t recycled{0};
  /// How long a lock was seen that could be taken over.
  std::chrono::steady_clock::duration longest_dead{};
};

/// Prints the figures and the violations.
void report(const World& world, const Blows& blows);

}  // namespace sessionlock::test::chaos
