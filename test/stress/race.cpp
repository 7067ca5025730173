#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <string>

#include <doctest/doctest.h>

#include "race.hpp"

using namespace sessionlock::test;

namespace {

/// `SESSIONLOCK_RACE_SECONDS`, or 30.
std::chrono::seconds duration() {
  const char* const text = std::getenv("SESSIONLOCK_RACE_SECONDS");
  return std::chrono::seconds{text != nullptr ? std::stoi(text) : 30};
}

}  // namespace

TEST_CASE("five processes that race for a session while dead locks are planted under them never overlap") {
  // A busy machine needs more than one round for as many acquisitions as make a proof.
  constexpr std::uint64_t k_enough = 5000;
  constexpr int k_rounds_max = 10;
  const auto seconds = duration();
  const bool whole = seconds >= std::chrono::seconds{30};
  std::uint64_t acquisitions = 0;
  for (int round = 0; round == 0 || (whole && acquisitions < k_enough && round < k_rounds_max); ++round) {
    const RaceFigures figures = race(seconds);
    CHECK(figures.overlaps == 0);
    CHECK(figures.lost_updates == 0);
    CHECK(figures.failures == 0);
    CHECK(figures.planted > 0);
    CHECK(figures.reclaims > 0);
    acquisitions += figures.acquisitions;
  }
  CHECK((!whole || acquisitions >= k_enough));
}
