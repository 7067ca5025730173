#include <chrono>

#include <doctest/doctest.h>

#include "race.hpp"

using namespace sessionlock::test;

TEST_CASE("processes that race for a session while dead locks are planted under them do not overlap in a short time") {
  // The long form is test/stress/race.cpp.
  const RaceFigures figures = race(std::chrono::seconds{3});
  CHECK(figures.overlaps == 0);
  CHECK(figures.lost_updates == 0);
  CHECK(figures.failures == 0);
  CHECK(figures.acquisitions > 0);
}
