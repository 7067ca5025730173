// Two processes at one session, each stopped before each call that the other can notice: all pairs. With every call of
// both, which takes longer: test/stress/all_schedules.cpp.

#include <doctest/doctest.h>

#include "schedule.hpp"

using namespace sessionlock::test;

TEST_CASE("whatever two processes are stopped before, nobody overlaps, removes another's lock or loses a record") {
  check_schedules(Stops::shared, [](const Scenario& scenario) { return scenario.adversary == Adversary::none; });
}
