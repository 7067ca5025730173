// Whole records at the end of a session.

#include <vector>

#include <benchmark/benchmark.h>

#include "bare.hpp"

namespace sessionlock::bench {
namespace {

constexpr std::size_t k_record_bytes = 200;
constexpr std::size_t k_batch = 100;
/// A session does not grow without end while it is measured.
constexpr off_t k_session_bytes_max = off_t{64} << 20U;

std::string record_text() {
  std::string text = R"({"event":"message","text":")";
  return text + std::string(k_record_bytes - text.size() - 2, 'x') + "\"}";
}

void keep_small(int fd) {
  struct stat status {};
  if (::fstat(fd, &status) == 0 && status.st_size > k_session_bytes_max) {
    require(::ftruncate(fd, 0) == 0, "ftruncate");
  }
}

int open_session(const std::filesystem::path& path) {
  const int fd = ::open(path.c_str(), O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
  require(fd >= 0, "open");
  keep_small(fd);
  return fd;
}

/// A record as somebody writes it who comes by once: acquire, open, append, release.
void visit(benchmark::State& state, const std::filesystem::path& session) {
  ::close(open_session(session));
  LockManager manager;
  const std::string text = record_text();
  for (auto _ : state) {
    auto lock = require_value(manager.acquire(session));
    {
      auto transcript = require_value(Transcript::open(lock));
      require(transcript.append(text).has_value(), "append");
    }
    require(lock.release().has_value(), "release");
  }
}

void visit_write(benchmark::State& state, const std::filesystem::path& session, bool keep_open) {
  LockManager manager;
  const std::string text = record_text() + '\n';
  int fd = open_session(session);
  for (auto _ : state) {
    auto lock = require_value(manager.acquire(session));
    if (!keep_open) {
      ::close(fd);
      fd = ::open(session.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
    }
    require(::write(fd, text.data(), text.size()) > 0, "write");
    require(lock.release().has_value(), "release");
  }
  ::close(fd);
}

struct Holding {
  bool fsync{false};
  std::size_t records{1};
};

/// Records of somebody who keeps the lock.
void append(benchmark::State& state, const std::filesystem::path& session, Holding holding) {
  ::close(open_session(session));
  LockManager manager;
  auto lock = require_value(manager.acquire(session));
  auto transcript = require_value(Transcript::open(lock, {.fsync = holding.fsync}));
  const std::string text = record_text();
  const std::vector<std::string_view> records(holding.records, text);
  for (auto _ : state) {
    require(transcript.append(records).has_value(), "append");
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(holding.records));
}

void write_under_flock(benchmark::State& state, const std::filesystem::path& session, Holding holding) {
  const int fd = open_session(session);
  std::string text;
  for (std::size_t i = 0; i < holding.records; ++i) {
    text += record_text() + '\n';
  }
  for (auto _ : state) {
    require(::flock(fd, LOCK_EX) == 0, "flock");
    require(::write(fd, text.data(), text.size()) > 0, "write");
    require(!holding.fsync || ::fsync(fd) == 0, "fsync");
    require(::flock(fd, LOCK_UN) == 0, "flock");
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(holding.records));
  ::close(fd);
}

void register_held_row(const std::filesystem::path& folder, const std::string& row, Holding holding) {
  benchmark::RegisterBenchmark(row.c_str(), [=](benchmark::State& state) {
    append(state, folder / "appended.jsonl", holding);
  })->UseRealTime();
  benchmark::RegisterBenchmark((row + "@flock_write").c_str(), [=](benchmark::State& state) {
    write_under_flock(state, folder / "written.jsonl", holding);
  })->UseRealTime();
}

}  // namespace

void register_append(const Places& places) {
  const auto folder = places.disk;
  benchmark::RegisterBenchmark("append/1", [=](benchmark::State& state) { visit(state, folder / "visited.jsonl"); });
  benchmark::RegisterBenchmark("append/1@acquire_write_release",
                               [=](benchmark::State& state) { visit_write(state, folder / "visited.jsonl", true); });
  benchmark::RegisterBenchmark("append/1@acquire_open_write_close_release",
                               [=](benchmark::State& state) { visit_write(state, folder / "visited.jsonl", false); });
  register_held_row(folder, "append/held", {});
  register_held_row(folder, "append/held/batch_of_100", {.records = k_batch});
  register_held_row(folder, "append/held/fsync", {.fsync = true});
}

}  // namespace sessionlock::bench
