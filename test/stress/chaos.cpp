// Many processes at a few sessions, in a PID namespace of their own, while some are killed, stopped, forked and
// replaced, pids are given out again at once, other programs lock too, garbage is planted, locks are forced and a sweep
// never ends. What they are and what is looked at is in test/support/chaos/.
//
// SESSIONLOCK_CHAOS_SECONDS says for how long, SESSIONLOCK_CHAOS_SEED with which random numbers; `scripts/chaos` sets
// both. The seed decides what is done to which process and when; what the scheduler makes of it is another matter.

#include <string>

#include <doctest/doctest.h>

#include "chaos/cast.hpp"
#include "chaos/director.hpp"
#include "process.hpp"

using namespace sessionlock::test;

TEST_CASE(
    "whatever dies, stops, forks or plants, writers never overlap, records are never lost, and locks never stay") {
  const std::string answer = chaos::perform(chaos::plan_from_environment(chaos::chaos_cast()));
  if (answer.starts_with("not allowed")) {
    skip_aloud(answer);
    return;
  }
  CHECK(answer == "over");
}
