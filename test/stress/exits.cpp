#include <doctest/doctest.h>

#include "exit_race.hpp"

using namespace sessionlock::test;

TEST_CASE("in two thousand exits nobody gets in under a guarded write of another thread") {
  const auto figures = exit_while_writing(2'000);
  CHECK(figures.overlaps == 0);
  CHECK(figures.failures == 0);
  CHECK(figures.left > 0);
  CHECK(figures.released > 0);
}
