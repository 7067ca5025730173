// Two processes at one session, each stopped before each system call it makes: all pairs, in all scenarios. In short:
// test/fault/schedules.cpp, disturbed_schedules.cpp and link_schedules.cpp.

#include <doctest/doctest.h>

#include "schedule.hpp"

using namespace sessionlock::test;

TEST_CASE("before whatever call two processes are stopped, nobody overlaps, removes another's lock or loses a record") {
  check_schedules(Stops::all, [](const Scenario&) { return true; });
}
