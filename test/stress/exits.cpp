#include <doctest/doctest.h>

#include "exit_race.hpp"

using namespace sessionlock::test;

TEST_CASE("five hundred exits while other threads are busy with locks end as they were asked to") {
  exit_while_busy(500);
}

TEST_CASE("in two thousand exits nobody gets in under a guarded write of another thread") {
  const auto figures = exit_while_writing(2'000);
  figures.check();
  CHECK(figures.released > 0);
}
