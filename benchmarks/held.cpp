// Many locks held at once by one process: what one more costs, and what each takes.

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <memory>
#include <vector>

#include <benchmark/benchmark.h>
#include <malloc.h>
#include <sys/resource.h>

#include "bare.hpp"

namespace sessionlock::bench {
namespace {

/// As the allocator counts; 0 where it does not tell.
std::size_t heap_bytes() {
#ifdef __GLIBC__
  const auto info = ::mallinfo2();
  return info.uordblks + info.hblkhd;
#else
  return 0;
#endif
}

std::size_t descriptors() {
  const std::filesystem::directory_iterator numbers("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(numbers), end(numbers)));
}

/// Locks of one process, and what they took.
class Crowd {
 public:
  Crowd(const std::filesystem::path& folder, std::size_t count) {
    const std::size_t descriptors_before = descriptors();
    locks_.reserve(count);
    const std::size_t heap_before = heap_bytes();
    for (std::size_t i = 0; i < count; ++i) {
      locks_.push_back(require_value(manager_.acquire(folder / ("held-" + std::to_string(i) + ".jsonl"))));
    }
    heap_each_ = static_cast<double>(heap_bytes() - heap_before) / static_cast<double>(count);
    descriptors_each_ = static_cast<double>(descriptors() - descriptors_before) / static_cast<double>(count);
  }
  LockManager& manager() { return manager_; }
  [[nodiscard]] double heap_each() const { return heap_each_; }
  [[nodiscard]] double descriptors_each() const { return descriptors_each_; }

 private:
  LockManager manager_;
  std::vector<SessionLock> locks_;
  double heap_each_{0};
  double descriptors_each_{0};
};

void raise_descriptor_limit(rlim_t wanted) {
  rlimit limit{};
  require(::getrlimit(RLIMIT_NOFILE, &limit) == 0, "getrlimit");
  if (limit.rlim_cur < wanted) {
    limit.rlim_cur = wanted;
    limit.rlim_max = std::max(limit.rlim_max, wanted);
    require(::setrlimit(RLIMIT_NOFILE, &limit) == 0, "setrlimit(RLIMIT_NOFILE)");
  }
}

/// One more, while so many are held.
void one_more(benchmark::State& state, const std::filesystem::path& folder, std::size_t count) {
  raise_descriptor_limit(count + 256);
  Crowd crowd(folder, count);
  const std::filesystem::path session = folder / "one_more.jsonl";
  for (auto _ : state) {
    auto lock = require_value(crowd.manager().acquire(session));
    require(lock.release().has_value(), "release");
  }
  state.counters["heap_each"] = crowd.heap_each();
  state.counters["descriptors_each"] = crowd.descriptors_each();
}

/// The same in bare system calls: a directory with more files in it costs the kernel more.
void one_more_bare(benchmark::State& state, const std::filesystem::path& folder, std::size_t count) {
  raise_descriptor_limit(count + 256);
  std::vector<BareLock> locks;
  for (std::size_t i = 0; i < count; ++i) {
    locks.emplace_back(folder, "bare-" + std::to_string(i) + ".jsonl").acquire();
    locks.back().share_directory();
  }
  BareLock one(folder, "one_more_bare.jsonl");
  for (auto _ : state) {
    one.acquire();
    one.release();
  }
  for (BareLock& lock : locks) {
    lock.release();
  }
}

}  // namespace

void register_held(const Places& places) {
  const auto folder = places.disk;
  for (const std::size_t count :
       {std::size_t{1}, std::size_t{10}, std::size_t{100}, std::size_t{1000}, std::size_t{10000}}) {
    const std::string row = "held/" + std::to_string(count);
    // A fixed number of rounds, because each measurement has to acquire the crowd first.
    constexpr benchmark::IterationCount k_rounds = 2000;
    benchmark::RegisterBenchmark(row.c_str(), [=](benchmark::State& state) {
      one_more(state, folder, count);
    })->Iterations(k_rounds);
    benchmark::RegisterBenchmark((row + "@bare").c_str(), [=](benchmark::State& state) {
      one_more_bare(state, folder, count);
    })->Iterations(k_rounds);
  }
}

}  // namespace sessionlock::bench
