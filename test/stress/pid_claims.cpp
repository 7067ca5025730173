// Many starts at once, again and again.

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <sessionlock/pid_file.hpp>

#include "lock_tools.hpp"
#include "process.hpp"

using namespace sessionlock;
using namespace sessionlock::test;

TEST_CASE("50 parallel starts, 100 times: exactly one survivor each, and every loser names it") {
  constexpr int k_rounds = 100;
  constexpr std::size_t k_starts = 50;
  const TemporaryDirectory directory;
  std::vector<ChildProcess> children;
  for (std::size_t i = 0; i < k_starts; ++i) {
    children.push_back(ChildProcess::run([](Channel& parent) {
      PidFileOptions options;
      options.format = PidFileFormat::colon;
      options.timeout = k_patience;  // many remove one stale file here, on a machine that may be busy
      while (const auto path = parent.hear()) {
        auto claim = PidFile::claim(*path, options);
        parent.tell(!claim        ? claim.error().message()
                    : claim->file ? "claimed"
                                  : std::to_string(claim->running->record.pid.value_or(0)));
        parent.expect("over");
      }
      return 0;
    }));
  }
  for (int round = 0; round < k_rounds; ++round) {
    CAPTURE(round);
    const auto path = directory / std::to_string(round);
    if (round % 2 == 1) {
      write_text(path, std::to_string(dead_pid()) + ":1\n");
    }
    for (auto& child : children) {
      child.tell(path.native());
    }
    std::vector<std::string> told;
    pid_t survivor = 0;
    for (auto& child : children) {
      told.push_back(child.hear().value());
      survivor = told.back() == "claimed" ? child.pid() : survivor;
    }
    CHECK(std::count(told.begin(), told.end(), "claimed") == 1);
    CHECK(std::count(told.begin(), told.end(), std::to_string(survivor)) == std::ptrdiff_t{k_starts} - 1);
    for (auto& child : children) {
      child.tell("over");
    }
  }
}
