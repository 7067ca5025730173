// What an uncontended acquire and release costs, beside what no lock file can avoid, in one run on one directory:
//
//   naive   open(O_EXCL), write, unlink, close: a lock file without any protection
//   bare    the system calls of this library's own protocol and nothing else
//
//   uncontended [DIRECTORY] [--benchmark_…]        a folder on the file system to measure; default: the current one
//
// Absolute times drift with the machine; the ratios at the end are of the medians of interleaved repetitions.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <sessionlock/sessionlock.hpp>

namespace {

std::filesystem::path g_folder;

/// A record as other programs write it, and one as long as ours.
const std::string k_short_record = R"({"pid":41237,"createdAt":"2026-11-20T03:31:48.712Z","starttime":123456})";
const std::string k_full_record(320, 'x');

void require(bool done, const char* what) {
  if (!done) {
    std::perror(what);
    std::exit(EXIT_FAILURE);
  }
}

void naive(benchmark::State& state) {
  const std::string path = g_folder / "naive.jsonl.lock";
  for (auto _ : state) {
    const int fd = ::open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    require(fd >= 0, "open");
    require(::write(fd, k_short_record.data(), k_short_record.size()) > 0, "write");
    require(::unlink(path.c_str()) == 0, "unlink");
    ::close(fd);
  }
}

void bare(benchmark::State& state) {
  const char* name = "bare.jsonl.lock";
  const std::string folder = g_folder;
  struct stat status {};
  for (auto _ : state) {
    const int directory = ::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
    require(directory >= 0, "open directory");
    ::fstat(directory, &status);
    ::fstatat(directory, "bare.jsonl", &status, AT_SYMLINK_NOFOLLOW);
    const int fd = ::openat(directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    require(fd >= 0, "O_TMPFILE");
    ::fstat(fd, &status);
    struct flock witness {};
    witness.l_type = F_WRLCK;
    witness.l_start = off_t{1} << 40;
    witness.l_len = 1;
    require(::fcntl(fd, F_OFD_SETLK, &witness) == 0, "F_OFD_SETLK");
    require(::write(fd, k_full_record.data(), k_full_record.size()) > 0, "write");
    if (::linkat(fd, "", directory, name, AT_EMPTY_PATH) != 0) {
      const std::string link = "/proc/self/fd/" + std::to_string(fd);
      require(::linkat(AT_FDCWD, link.c_str(), directory, name, AT_SYMLINK_FOLLOW) == 0, "linkat");
    }
    ::stat(folder.c_str(), &status);
    ::fstatat(directory, "bare.jsonl", &status, AT_SYMLINK_NOFOLLOW);
    ::fstat(fd, &status);
    require(::flock(fd, LOCK_EX | LOCK_NB) == 0, "flock");
    ::fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW);
    require(::unlinkat(directory, name, 0) == 0, "unlinkat");
    ::flock(fd, LOCK_UN);
    struct flock mark = witness;
    ++mark.l_start;
    ::fcntl(fd, F_OFD_GETLK, &mark);
    ::close(fd);
    ::close(directory);
  }
}

void library(benchmark::State& state) {
  sessionlock::LockManager manager;
  const std::filesystem::path session = g_folder / "library.jsonl";
  for (auto _ : state) {
    auto lock = manager.acquire(session);
    if (!lock || !lock->release()) {
      state.SkipWithError(lock ? "release failed" : lock.error().message().c_str());
      break;
    }
  }
}

/// Shows the usual table, and keeps each benchmark's repetitions for the ratios.
class Ratios : public benchmark::ConsoleReporter {
 public:
  void ReportRuns(const std::vector<Run>& runs) override {
    ConsoleReporter::ReportRuns(runs);
    for (const Run& run : runs) {
      if (run.run_type == Run::RT_Iteration && !run.error_occurred) {
        times_[run.run_name.function_name].push_back(run.GetAdjustedRealTime());
      }
    }
  }
  void print() {
    const double floor = median("naive");
    fmt::print("\n{:<10}{:>12}{:>14}{:>14}\n", "", "median", "of naive", "of bare");
    for (const char* name : {"naive", "bare", "library"}) {
      fmt::print("{:<10}{:>9.2f} us{:>13.2f}x{:>13.2f}x\n", name, median(name) / 1000, median(name) / floor,
                 median(name) / median("bare"));
    }
  }

 private:
  double median(const std::string& name) {
    std::vector<double>& times = times_[name];
    if (times.empty()) {
      return 0;
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }
  std::map<std::string, std::vector<double>> times_;
};

}  // namespace

int main(int argc, char** argv) {
  std::vector<char*> arguments(argv, argv + argc);
  std::string repetitions = "--benchmark_repetitions=9";
  std::string interleave = "--benchmark_enable_random_interleaving=true";
  arguments.insert(arguments.begin() + 1, {repetitions.data(), interleave.data()});
  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  const std::filesystem::path parent = count > 1 ? arguments[1] : ".";
  std::string folder = std::filesystem::absolute(parent / "sessionlock-bench.XXXXXX");
  require(::mkdtemp(folder.data()) != nullptr, "mkdtemp");
  g_folder = folder;
  benchmark::RegisterBenchmark("naive", naive);
  benchmark::RegisterBenchmark("bare", bare);
  benchmark::RegisterBenchmark("library", library);
  Ratios ratios;
  benchmark::RunSpecifiedBenchmarks(&ratios);
  ratios.print();
  std::filesystem::remove_all(g_folder);
  return EXIT_SUCCESS;
}
