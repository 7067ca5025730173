// A dry run over directories full of locks: of ended owners, of living ones, and malformed.

#include <array>
#include <memory>
#include <vector>

#include <benchmark/benchmark.h>
#include <dirent.h>

#include "bare.hpp"

namespace sessionlock::bench {
namespace {

constexpr int k_owners = 16;  // of each kind

/// Of ten locks five have an ended owner, three a living one, and two say nothing usable.
std::filesystem::path fill(const std::filesystem::path& parent, int count) {
  const std::filesystem::path folder = parent / ("sweep." + std::to_string(count));
  if (!std::filesystem::create_directory(folder)) {
    return folder;
  }
  static const std::vector<std::string> dead = [] {
    std::vector<std::string> records;
    for (int i = 0; i < k_owners; ++i) {
      records.push_back(format_lock_record(own_record(ended_process())));
      records.push_back(foreign_record(ended_process()));
    }
    return records;
  }();
  static const std::vector<std::string> live = [] {
    std::vector<std::string> records;
    for (int i = 0; i < k_owners; ++i) {
      const pid_t owner = start_idle_process();
      records.push_back(i % 2 == 0 ? format_lock_record(own_record(owner)) : foreign_record(owner));
    }
    return records;
  }();
  static const std::array<std::string, 4> malformed{"", "{\"pid\": 41", "not JSON at all", R"({"pid": "41237"})"};
  for (int i = 0; i < count; ++i) {
    const auto turn = static_cast<std::size_t>(i) / 10;
    const std::string& record = i % 10 < 5   ? dead[turn % dead.size()]
                                : i % 10 < 8 ? live[turn % live.size()]
                                             : malformed[turn % malformed.size()];
    write_file(folder / ("session-" + std::to_string(i) + ".jsonl.lock"), record);
  }
  return folder;
}

void dry_run(benchmark::State& state, const std::filesystem::path& parent, int count) {
  const auto folder = fill(parent, count);
  SweepOptions options;
  options.remove = false;
  for (auto _ : state) {
    const SweepReport report = require_value(sweep(folder, options));
    require(report.locks.size() == static_cast<std::size_t>(count) && report.errors.empty(), "the report");
  }
  state.SetItemsProcessed(state.iterations() * count);
}

void list_and_read(benchmark::State& state, const std::filesystem::path& parent, int count) {
  const auto folder = fill(parent, count);
  std::array<char, 4096> buffer{};
  for (auto _ : state) {
    const std::unique_ptr<DIR, int (*)(DIR*)> listing(::opendir(folder.c_str()), ::closedir);
    require(listing != nullptr, "opendir");
    const int directory = ::dirfd(listing.get());
    int seen = 0;
    while (const dirent* entry = ::readdir(listing.get())) {
      if (entry->d_type != DT_REG) {
        continue;
      }
      const int fd = ::openat(directory, entry->d_name, O_RDONLY | O_CLOEXEC);
      require(fd >= 0, "openat");
      benchmark::DoNotOptimize(::read(fd, buffer.data(), buffer.size()));
      ::close(fd);
      ++seen;
    }
    require(seen == count, "the listing");
  }
  state.SetItemsProcessed(state.iterations() * count);
}

}  // namespace

void register_sweep(const Places& places) {
  const auto parent = places.disk;
  std::vector<int> counts{100, 1000, 10000};
  if (places.full) {
    counts.push_back(100000);
  }
  for (const int count : counts) {
    const std::string row = "sweep/" + std::to_string(count);
    const auto add = [&](const std::string& name, void (*run)(benchmark::State&, const std::filesystem::path&, int)) {
      benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) { run(state, parent, count); })
          ->Unit(benchmark::kMillisecond)
          ->UseRealTime();
    };
    add(row, dry_run);
    add(row + "@list_and_read", list_and_read);
  }
}

}  // namespace sessionlock::bench
