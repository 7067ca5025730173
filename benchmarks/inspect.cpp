// Looking at a lock that somebody holds.

#include <array>

#include <benchmark/benchmark.h>

#include "bare.hpp"

namespace sessionlock::bench {
namespace {

/// A held lock's session, made at the first use.
std::filesystem::path held_session(const std::filesystem::path& folder, bool own) {
  const std::filesystem::path session = folder / (own ? "own.jsonl" : "foreign.jsonl");
  const std::string lock = session.native() + ".lock";
  if (!std::filesystem::exists(lock)) {
    const pid_t owner = start_idle_process();
    write_file(lock, own ? format_lock_record(own_record(owner)) : foreign_record(owner));
  }
  return session;
}

void inspect(benchmark::State& state, const std::filesystem::path& folder, bool own) {
  const LockManager manager;
  const auto session = held_session(folder, own);
  for (auto _ : state) {
    benchmark::DoNotOptimize(require_value(manager.inspect(session)));
  }
}

void try_acquire(benchmark::State& state, const std::filesystem::path& folder) {
  LockManager manager;
  const auto session = held_session(folder, true);
  for (auto _ : state) {
    require(!manager.try_acquire(session).has_value(), "a held lock was given away");
  }
}

/// What nobody can do without who wants to know what a lock file says.
void read_only(benchmark::State& state, const std::filesystem::path& folder) {
  const std::string lock = held_session(folder, true).native() + ".lock";
  std::array<char, 1024> buffer{};
  for (auto _ : state) {
    const int fd = ::open(lock.c_str(), O_RDONLY | O_CLOEXEC);
    require(fd >= 0 && ::read(fd, buffer.data(), buffer.size()) > 0, "read");
    ::close(fd);
  }
}

/// The same, asking for the lock before as others do.
void refused_open(benchmark::State& state, const std::filesystem::path& folder) {
  const std::string lock = held_session(folder, true).native() + ".lock";
  std::array<char, 1024> buffer{};
  for (auto _ : state) {
    require(::open(lock.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600) < 0, "open");
    const int fd = ::open(lock.c_str(), O_RDONLY | O_CLOEXEC);
    require(fd >= 0 && ::read(fd, buffer.data(), buffer.size()) > 0, "read");
    ::close(fd);
  }
}

}  // namespace

void register_inspect(const Places& places) {
  const auto folder = places.disk;
  for (const bool own : {true, false}) {
    const std::string row = own ? "inspect/own" : "inspect/foreign";
    benchmark::RegisterBenchmark(row.c_str(), [=](benchmark::State& state) { inspect(state, folder, own); });
    benchmark::RegisterBenchmark((row + "@read").c_str(), [=](benchmark::State& state) { read_only(state, folder); });
  }
  benchmark::RegisterBenchmark("try_acquire_held", [=](benchmark::State& state) { try_acquire(state, folder); });
  benchmark::RegisterBenchmark("try_acquire_held@refused_open",
                               [=](benchmark::State& state) { refused_open(state, folder); });
}

}  // namespace sessionlock::bench
