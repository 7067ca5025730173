// As schedules.cpp, and while both are stopped one of them is killed, or somebody removes or renames what they work on.

#include <doctest/doctest.h>

#include "schedule.hpp"

using namespace sessionlock::test;

TEST_CASE("whatever two processes are stopped before when one is killed or their files go, nobody harms another") {
  check_schedules(Stops::shared, [](const Scenario& scenario) {
    return scenario.adversary != Adversary::none && scenario.adversary != Adversary::link &&
           scenario.adversary != Adversary::unlink;
  });
}
