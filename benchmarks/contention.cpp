// Threads of one process and processes that all want the same session without a pause.

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>
#include <vector>

#include <benchmark/benchmark.h>
#include <sys/wait.h>

#include "bare.hpp"

namespace sessionlock::bench {
namespace {

constexpr int k_rounds = 200;  // of each contender

void take_turns(LockManager& manager, const std::filesystem::path& session) {
  for (int round = 0; round < k_rounds; ++round) {
    auto lock = require_value(manager.acquire(session));
    require(lock.release().has_value(), "release");
  }
}

void with_threads(const std::filesystem::path& session, int count) {
  LockManager manager;
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) {
    threads.emplace_back([&] { take_turns(manager, session); });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
}

void in_processes(int count, const std::function<void()>& body) {
  std::vector<pid_t> children;
  for (int i = 0; i < count; ++i) {
    const pid_t child = ::fork();
    require(child >= 0, "fork");
    if (child == 0) {
      body();
      ::_exit(EXIT_SUCCESS);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 0;
    require(::waitpid(child, &status, 0) == child && status == 0, "a contender");
  }
}

void with_processes(const std::filesystem::path& session, int count) {
  in_processes(count, [&] {
    LockManager manager;
    take_turns(manager, session);
  });
}

/// What as many processes need for as many turns with the kernel's lock.
void flock_processes(const std::filesystem::path& session, int count) {
  in_processes(count, [&] {
    const int fd = ::open((session.native() + ".flock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    for (int round = 0; round < k_rounds; ++round) {
      require(::flock(fd, LOCK_EX) == 0 && ::flock(fd, LOCK_UN) == 0, "flock");
    }
  });
}

}  // namespace

/// A row's time is that of one turn: all contenders' time together, by the turns of all.
void register_contention(const Places& places) {
  const auto session = places.disk / "contended.jsonl";
  const auto add = [&](const std::string& row, int count, void (*function)(const std::filesystem::path&, int)) {
    benchmark::RegisterBenchmark(row.c_str(),
                                 [=](benchmark::State& state) {
                                   for (auto _ : state) {
                                     const auto begin = std::chrono::steady_clock::now();
                                     function(session, count);
                                     const std::chrono::duration<double> took =
                                         std::chrono::steady_clock::now() - begin;
                                     state.SetIterationTime(took.count() / (k_rounds * count));
                                   }
                                 })
        ->UseManualTime()
        ->Iterations(1);
  };
  for (const int count : {1, 2, 4, 8}) {
    add("threads/" + std::to_string(count), count, with_threads);
    add("processes/" + std::to_string(count), count, with_processes);
    add("processes/" + std::to_string(count) + "@flock", count, flock_processes);
  }
}

}  // namespace sessionlock::bench
