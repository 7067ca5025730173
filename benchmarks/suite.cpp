// What sessionlock costs, beside what nothing can avoid, in one run.
//
//   suite [--quick] [--directory DIR] [--benchmark_…]
//
// DIR is a folder on the file system to measure (default: the current one); the rows for tmpfs are measured in
// /dev/shm. Times drift with the machine, so repetitions of all rows are interleaved at random, and only medians of the
// same run are compared. With --benchmark_out=FILE the figures go to a file, as `scripts/bench_report.py` wants them.

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>
#include <fmt/core.h>
#include <linux/magic.h>
#include <sys/prctl.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.hpp"

namespace sessionlock::bench {

void require(bool done, const char* what) {
  if (!done) {
    std::perror(what);
    std::exit(EXIT_FAILURE);
  }
}

Scratch::Scratch(const std::filesystem::path& parent) {
  std::string folder = std::filesystem::absolute(parent / "sessionlock-bench.XXXXXX");
  require(::mkdtemp(folder.data()) != nullptr, "mkdtemp");
  path_ = folder;
}

Scratch::~Scratch() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void write_file(const std::filesystem::path& path, std::string_view content) {
  std::ofstream file(path, std::ios::binary);
  file << content;
  require(file.good(), "write");
}

pid_t start_idle_process() {
  const pid_t child = ::fork();
  require(child >= 0, "fork");
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (true) {
      ::pause();
    }
  }
  return child;
}

pid_t ended_process() {
  const pid_t child = ::fork();
  require(child >= 0, "fork");
  if (child == 0) {
    ::_exit(EXIT_SUCCESS);
  }
  require(::waitpid(child, nullptr, 0) == child, "waitpid");
  return child;
}

std::string foreign_record(pid_t pid) {
  return fmt::format(R"({{"pid":{},"createdAt":"2026-11-20T03:31:48.712Z","starttime":{}}})", pid,
                     process_start_time(pid).value_or(1));
}

LockRecord own_record(pid_t pid) {
  const ProcessIdentity self = this_process();
  LockRecord record;
  record.pid = pid;
  record.created_at = "2026-11-20T03:31:48.712Z";
  record.starttime = process_start_time(pid).value_or(1);
  record.max_hold_ms = 300000;
  record.lock_id = "0123456789abcdef0123456789abcdef";
  record.boot_id = self.boot_id;
  record.pid_namespace = self.pid_namespace;
  record.time_namespace = self.time_namespace;
  record.witness = "ofd:64768:1234567";
  record.host = self.host;
  return record;
}

namespace {

std::string file_system_name(const std::filesystem::path& folder) {
  struct statfs file_system {};
  require(::statfs(folder.c_str(), &file_system) == 0, "statfs");
  constexpr decltype(file_system.f_type) k_xfs = 0x58465342;
  switch (file_system.f_type) {
    case EXT4_SUPER_MAGIC:
      return "ext4";
    case TMPFS_MAGIC:
      return "tmpfs";
    case BTRFS_SUPER_MAGIC:
      return "btrfs";
    case OVERLAYFS_SUPER_MAGIC:
      return "overlayfs";
    case k_xfs:
      return "xfs";
    default:
      return fmt::format("{:#x}", file_system.f_type);
  }
}

struct Options {
  bool quick{false};
  std::filesystem::path directory{"."};
};

/// Takes our own options out of the arguments.
Options take_options(std::vector<char*>& arguments) {
  Options options;
  for (std::size_t i = 1; i < arguments.size();) {
    const std::string_view argument = arguments[i];
    const auto taken = arguments.begin() + static_cast<std::ptrdiff_t>(i);
    if (argument == "--quick") {
      options.quick = true;
      arguments.erase(taken);
    } else if (argument == "--directory" && i + 1 < arguments.size()) {
      options.directory = arguments[i + 1];
      arguments.erase(taken, taken + 2);
    } else {
      ++i;
    }
  }
  return options;
}

int run(std::vector<char*> arguments) {
  const Options options = take_options(arguments);
  std::string repetitions = options.quick ? "--benchmark_repetitions=3" : "--benchmark_repetitions=9";
  std::string time = options.quick ? "--benchmark_min_time=0.03" : "--benchmark_min_time=0.2";
  std::string interleave = "--benchmark_enable_random_interleaving=true";
  // Before the user's own, which then win.
  arguments.insert(arguments.begin() + 1, {repetitions.data(), time.data(), interleave.data()});
  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) {
    return EXIT_FAILURE;
  }
  const Scratch disk(options.directory);
  const Scratch memory("/dev/shm");
  Places places{disk.path(), file_system_name(disk.path()), {}, !options.quick};
  if (file_system_name(memory.path()) == "tmpfs" && places.disk_name != "tmpfs") {
    places.tmpfs = memory.path();
  }
  register_acquire(places);
  register_inspect(places);
  register_judgement();
  register_sweep(places);
  register_append(places);
  register_contention(places);
  register_held(places);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace sessionlock::bench

int main(int argc, char** argv) {
  return sessionlock::bench::run({argv, argv + argc});
}
