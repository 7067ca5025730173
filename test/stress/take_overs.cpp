// Eight processes at one session, most of which die with the lock, and a sweep that never ends: each death is reported
// once, to the turn that follows it or to the sweep that removed its lock, and nothing else is reported.
//
// What has happened is counted outside the library, in memory that all of them share. SESSIONLOCK_TAKE_OVERS says how
// many deaths there are to be.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <new>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>

#include <sessionlock/sessionlock.hpp>

#include "process.hpp"

using namespace sessionlock;
using namespace sessionlock::test;

namespace {

constexpr std::size_t k_contenders = 8;
/// Of a hundred turns so many end with a release.
constexpr unsigned k_releases_percent = 20;
/// A turn that is killed before it has the lock leaves no death, so there are more turns than deaths.
constexpr std::size_t k_tokens_per_death = 4;

std::size_t wanted_deaths() {
  const char* const text = std::getenv("SESSIONLOCK_TAKE_OVERS");
  return text != nullptr ? std::stoul(text) : 5000;
}

/// One acquisition, known by the number in its lock's label.
struct Turn {
  std::atomic<std::uint8_t> deaths{0};
  std::atomic<std::uint8_t> reports_to_turns{0};
  std::atomic<std::uint8_t> reports_of_sweeps{0};
};

/// What all processes share.
struct Ledger {
  std::atomic<std::size_t> tokens{1};
  std::atomic<std::size_t> deaths{0};
  std::atomic<std::size_t> failures{0};
  /// The last holder, by its token, if it died: written and read under the lock only.
  std::atomic<std::size_t> last_death{0};
  /// It was not reported to the turn after it, so a sweep must have reported it.
  std::atomic<std::size_t> left_to_sweeps{0};
  /// The turn after a release, or after a death that was reported already, was told of something.
  std::atomic<std::size_t> false_reports{0};
  std::atomic<bool> is_over{false};
  std::size_t size{0};
  Turn* turns{nullptr};

  void fail(const std::string& what) {
    std::cerr << what << '\n';
    ++failures;
  }
};

Ledger& map_ledger(std::size_t turns) {
  const auto map = [](std::size_t bytes) {
    void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
      throw ProcessFailure("mmap");
    }
    return memory;
  };
  auto& ledger = *new (map(sizeof(Ledger))) Ledger;
  ledger.size = turns;
  ledger.turns = static_cast<Turn*>(map(turns * sizeof(Turn)));  // zeroes are what a Turn begins with
  return ledger;
}

std::size_t token_of(const Inspection& inspection) {
  return inspection.record.label ? std::stoul(*inspection.record.label) : 0;
}

/// What this turn is told, against what has happened.
void check_report(Ledger& ledger, const SessionLock& lock) {
  const std::size_t death = ledger.last_death.exchange(0);
  const auto& report = lock.reclaimed_from();
  if (!report) {
    ledger.left_to_sweeps += death != 0 ? 1U : 0U;
    return;
  }
  const std::size_t reported = token_of(*report);
  if (reported != death || report->reasons.empty()) {
    ++ledger.false_reports;
  }
  ++ledger.turns[reported].reports_to_turns;
}

/// One process: takes its turn, and dies with the lock or releases it.
[[noreturn]] void take_turn(Ledger& ledger, const std::filesystem::path& session, std::size_t token, bool dies) {
  LockManager manager;
  auto lock = manager.acquire(session, {.label = std::to_string(token)});
  if (!lock) {
    ledger.fail("acquire: " + lock.error().message());
    ::_exit(1);
  }
  check_report(ledger, *lock);
  if (dies) {
    ledger.turns[token].deaths = 1;
    ++ledger.deaths;
    ledger.last_death = token;
    ::kill(::getpid(), SIGKILL);
  }
  if (const auto released = lock->release(); !released) {
    ledger.fail("release: " + released.error().message());
  }
  ::_exit(0);
}

int run_contender(Ledger& ledger, const std::filesystem::path& session, unsigned seed, std::size_t wanted) {
  std::minstd_rand random(seed);
  while (ledger.deaths < wanted) {
    const std::size_t token = ledger.tokens++;
    if (token >= ledger.size) {
      ledger.fail("there were far more turns than deaths");
      return 1;
    }
    const bool dies = random() % 100 >= k_releases_percent;
    const pid_t child = ::fork();
    if (child == 0) {
      take_turn(ledger, session, token, dies);
    }
    if (child < 0 || ::waitpid(child, nullptr, 0) != child) {
      ledger.fail("fork or waitpid");
      return 1;
    }
  }
  return 0;
}

int run_sweeper(Ledger& ledger, const std::filesystem::path& directory) {
  while (!ledger.is_over) {
    const auto report = sweep(directory);
    if (!report) {
      ledger.fail("sweep: " + report.error().message());
      return 1;
    }
    for (const Inspection& removed : report->removed) {
      ++ledger.turns[token_of(removed)].reports_of_sweeps;
    }
  }
  return 0;
}

}  // namespace

TEST_CASE("each death is reported exactly once: to the turn that follows it, or by the sweep that removed its lock") {
  const std::size_t wanted = wanted_deaths();
  for (const bool with_sweeper : {false, true}) {
    CAPTURE(with_sweeper);
    const TemporaryDirectory directory;
    const auto session = directory / "s.jsonl";
    Ledger& ledger = map_ledger(wanted * k_tokens_per_death + 1000);
    std::vector<ChildProcess> contenders;
    for (unsigned i = 0; i < k_contenders; ++i) {
      contenders.push_back(
          ChildProcess::run([&, i](Channel&) { return run_contender(ledger, session, i + 1, wanted); }));
    }
    std::optional<ChildProcess> sweeper;
    if (with_sweeper) {
      sweeper = ChildProcess::run([&](Channel&) { return run_sweeper(ledger, directory.path()); });
    }
    while (ledger.deaths < wanted && ledger.failures == 0) {
      ::usleep(10'000);
    }
    for (auto& contender : contenders) {
      CHECK(contender.wait().exited_with(0));
    }
    check_report(ledger, LockManager().acquire(session, {.label = "0"}).value());
    ledger.is_over = true;
    if (sweeper) {
      CHECK(sweeper->wait().exited_with(0));
    }
    std::size_t missed = 0;
    std::size_t doubled = 0;
    std::size_t invented = 0;
    std::size_t swept = 0;
    for (std::size_t token = 0; token < ledger.size; ++token) {
      const Turn& turn = ledger.turns[token];
      const int reports = turn.reports_to_turns + turn.reports_of_sweeps;
      missed += turn.deaths > reports ? 1U : 0U;
      doubled += turn.deaths == 1 && reports > 1 ? 1U : 0U;
      invented += turn.deaths == 0 && reports > 0 ? 1U : 0U;
      swept += turn.reports_of_sweeps;
    }
    CHECK(ledger.failures == 0);
    CHECK(missed == 0);
    CHECK(doubled == 0);
    CHECK(invented == 0);
    CHECK(ledger.false_reports == 0);
    CHECK(ledger.left_to_sweeps == swept);
    CHECK(ledger.deaths >= wanted);
    std::cout << ledger.deaths << " deaths, " << swept << " of them swept: " << missed << " missed, " << doubled
              << " doubled, " << invented + ledger.false_reports << " false\n";
  }
}
