#include <initializer_list>

#include <doctest/doctest.h>

#include "wake_ups.hpp"

using namespace sessionlock::test;

TEST_CASE("of ten thousand releases between look and sleep none is missed") {
  const auto figures = release_at_every_call(10'000);
  CHECK(figures.ended_by_timer == 0);
  CHECK(figures.failures == 0);
  CHECK(figures.before_sleep > 0);
  CHECK(figures.at_sleep > 0);
}

TEST_CASE("of two thousand deaths between look and sleep none is missed") {
  const auto figures = kill_at_every_call(2'000);
  CHECK(figures.ended_by_timer == 0);
  CHECK(figures.failures == 0);
}

TEST_CASE("of ten thousand cancelled acquires none loses the lock") {
  for (const Queue queue : {Queue::threads, Queue::processes}) {
    const auto figures = cancel_at_random(queue, 5'000);
    CHECK(figures.lost == 0);
    CHECK(figures.acquired > 0);
    CHECK(figures.cancelled > 0);
  }
}
