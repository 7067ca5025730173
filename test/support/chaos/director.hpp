#pragma once

/// \file
/// Who starts the processes of a chaos run, strikes at them, and judges at the end.

#include <chrono>
#include <cstdint>
#include <string>

#include "chaos/actor.hpp"

namespace sessionlock::test::chaos {

struct Plan {
  std::chrono::seconds duration{20};
  /// Decides what is done to which process, and when; what the scheduler makes of it is another matter.
  std::uint64_t seed{};
  Cast cast{};
  /// The directory belongs to a user and a group, and holds files that are no locks; otherwise it is root's alone.
  bool is_shared{false};
};

/// `SESSIONLOCK_CHAOS_SECONDS` and `SESSIONLOCK_CHAOS_SEED`, or 20 s and a seed of its own; prints them.
[[nodiscard]] Plan plan_from_environment(Cast cast, bool is_shared = false);

/// Performs a plan in a PID namespace of its own, and prints the figures and every violation.
/// Returns: "over", how many violations there were, or "not allowed: " and what.
[[nodiscard]] std::string perform(const Plan& plan);

}  // namespace sessionlock::test::chaos
