// An uncontended acquire and release, beside what no lock file can avoid and what no lock can.

#include <benchmark/benchmark.h>

#include "bare.hpp"

namespace sessionlock::bench {
namespace {

void library(benchmark::State& state, const std::filesystem::path& folder) {
  LockManager manager;
  const std::filesystem::path session = folder / "library.jsonl";
  for (auto _ : state) {
    auto lock = require_value(manager.acquire(session));
    require(lock.release().has_value(), "release");
  }
}

void naive(benchmark::State& state, const std::filesystem::path& folder) {
  const std::string path = folder / "naive.jsonl.lock";
  const std::string record = foreign_record(::getpid());
  for (auto _ : state) {
    naive_cycle(path, record);
  }
}

void bare(benchmark::State& state, const std::filesystem::path& folder) {
  BareLock lock(folder, "bare.jsonl");
  for (auto _ : state) {
    lock.acquire();
    lock.release();
  }
}

/// A nameless file that gets a name and loses it, which is the part of our protocol that publishes a whole file.
void nameless(benchmark::State& state, const std::filesystem::path& folder) {
  const int directory = ::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  require(directory >= 0, "open directory");
  for (auto _ : state) {
    const int fd = ::openat(directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    require(fd >= 0, "O_TMPFILE");
    require(::write(fd, k_full_record.data(), k_full_record.size()) > 0, "write");
    const std::string link = "/proc/self/fd/" + std::to_string(fd);
    require(::linkat(AT_FDCWD, link.c_str(), directory, "nameless.lock", AT_SYMLINK_FOLLOW) == 0, "linkat");
    require(::unlinkat(directory, "nameless.lock", 0) == 0, "unlinkat");
    ::close(fd);
  }
  ::close(directory);
}

/// Open file kept: what a lock costs that writes no record and tells nobody who has it.
void flock_pair(benchmark::State& state, const std::filesystem::path& folder) {
  const int fd = ::open((folder / "flock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  require(fd >= 0, "open");
  for (auto _ : state) {
    require(::flock(fd, LOCK_EX) == 0, "flock");
    require(::flock(fd, LOCK_UN) == 0, "flock");
  }
  ::close(fd);
}

void register_in(const std::filesystem::path& folder, const std::string& row) {
  const auto add = [&](const char* floor, void (*function)(benchmark::State&, const std::filesystem::path&)) {
    benchmark::RegisterBenchmark((row + floor).c_str(), [=](benchmark::State& state) { function(state, folder); });
  };
  add("", library);
  add("@naive", naive);
  add("@bare", bare);
  add("@nameless", nameless);
  add("@flock", flock_pair);
}

}  // namespace

void register_acquire(const Places& places) {
  register_in(places.disk, "acquire_release/" + places.disk_name);
  if (!places.tmpfs.empty()) {
    register_in(places.tmpfs, "acquire_release/tmpfs");
  }
}

}  // namespace sessionlock::bench
