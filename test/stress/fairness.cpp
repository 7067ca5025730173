// Nobody starves. The bounds are far above what docs/waiting.md reports, because a test must not depend on the
// machine's speed; the figures themselves are printed.

#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include <doctest/doctest.h>

#include "fairness.hpp"

using namespace sessionlock::test;
using namespace std::chrono_literals;

namespace {

constexpr auto k_duration = 10s;
/// No wait is to come near this, on a machine of any speed.
constexpr auto k_wait_max = 5s;

}  // namespace

TEST_CASE("eight processes in tight loops share a session") {
  const auto shares = compete(std::vector<Competitor>(8), k_duration);
  print("8 processes in tight loops", shares);
  CHECK(longest_wait(shares) < k_wait_max);
  std::uint64_t all = 0;
  for (const Share& share : shares) {
    all += share.acquisitions;
  }
  for (const Share& share : shares) {
    CHECK(share.acquisitions > all / 100);
  }
}

TEST_CASE("a tight loop leaves three others their turn") {
  struct Others {
    const char* title;
    Competitor loop;
    Competitor each;
  };
  for (const Others& others :
       {Others{"4 processes in tight loops", {}, {}},
        Others{"a tight loop, and 3 that rest for 1 ms after each turn", {}, {.rest = 1ms}},
        Others{"a loop that holds for 1 ms and tries again at once, and 3 that rest for 1 ms",
               {.hold = 1ms},
               {.rest = 1ms}},
        Others{"the same, and the 3 have to poll", {.hold = 1ms}, {.rest = 1ms, .polls = true}}}) {
    const auto shares = compete({others.loop, others.each, others.each, others.each}, k_duration);
    print(others.title, shares);
    CHECK(longest_wait(shares) < k_wait_max);
  }
}
