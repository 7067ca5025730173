#include <initializer_list>

#include <doctest/doctest.h>

#include "wake_ups.hpp"

using namespace sessionlock::test;

TEST_CASE("of ten thousand releases between look and sleep none is missed") {
  release_at_every_call(10'000).check();
}

TEST_CASE("of two thousand deaths between look and sleep none is missed") {
  kill_at_every_call(2'000).check();
}

TEST_CASE("of ten thousand cancelled acquires none loses the lock") {
  for (const Queue queue : {Queue::threads, Queue::processes}) {
    const auto figures = cancel_at_random(queue, 5'000);
    CHECK(figures.lost == 0);
    CHECK(figures.acquired > 0);
    CHECK(figures.cancelled > 0);
  }
}
