// As schedules.cpp, and while both are stopped the session becomes a symbolic link, or is one no more.

#include <doctest/doctest.h>

#include "schedule.hpp"

using namespace sessionlock::test;

TEST_CASE(
    "whatever two processes are stopped before when their session begins or ceases to be a link, each has its lock") {
  check_schedules(Stops::shared, [](const Scenario& scenario) {
    return scenario.adversary == Adversary::link || scenario.adversary == Adversary::unlink;
  });
}
