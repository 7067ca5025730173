// Chaos (test/stress/chaos.cpp) beside what means harm or does not know better: another user of the group that shares
// the directory, programs that close every descriptor they did not open, two copies of the library in one process, wall
// clocks that are two hours wrong or step, time namespaces, and calls about files that are no locks.
//
// SESSIONLOCK_CHAOS_KINDS names the hostile kinds that take part, between commas: closer, twin, clock, traveller,
// claimant, visitor, innocent, neighbour; by default all do. `scripts/chaos --hostile` runs this.

#include <string>

#include <doctest/doctest.h>

#include "chaos/cast.hpp"
#include "chaos/director.hpp"
#include "process.hpp"

using namespace sessionlock::test;

TEST_CASE(
    "neighbours, programs that close everything, second copies and wrong clocks let no two writers in, and neither "
    "descriptors of others nor files that are no locks are touched") {
  const std::string answer = chaos::perform(chaos::plan_from_environment(chaos::hostile_cast(), true));
  if (answer.starts_with("not allowed")) {
    skip_aloud(answer);
    return;
  }
  CHECK(answer == "over");
}
