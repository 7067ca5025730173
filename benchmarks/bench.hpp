#pragma once

/// \file
/// What the parts of the benchmark suite share: where to measure, and how a row gets its floor. A row is named as in
/// `docs/benchmarks.md`. A benchmark named `ROW@FLOOR` is the same work with nothing but the system calls that cannot
/// be avoided; `scripts/bench_report.py` puts the two together. A counter C of a row becomes the row `ROW/C`.

#include <filesystem>
#include <string>
#include <string_view>

#include <sys/types.h>

#include <sessionlock/sessionlock.hpp>

namespace sessionlock::bench {

/// Ends the program with the failed call's name unless it was done.
void require(bool done, const char* what);
template <class T>
T require_value(Result<T>&& result) {
  if (!result) {
    require(false, result.error().message().c_str());
  }
  return std::move(*result);
}

/// A folder that goes with this.
class Scratch {
 public:
  explicit Scratch(const std::filesystem::path& parent);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// Where to measure.
struct Places {
  std::filesystem::path disk;
  /// As the rows call the file system of `disk`, such as `ext4`.
  std::string disk_name;
  /// Empty where there is no tmpfs to be had.
  std::filesystem::path tmpfs;
  /// With the rows that take long.
  bool full{true};
};

void write_file(const std::filesystem::path& path, std::string_view content);
/// A child that does nothing, for locks with a living owner; it goes with this program.
pid_t start_idle_process();
/// The pid of a process that has ended.
pid_t ended_process();
/// A record as other programs write it.
std::string foreign_record(pid_t pid);
/// A record of ours, as `pid` would write it, but for the witness, which names no inode.
LockRecord own_record(pid_t pid);

void register_acquire(const Places& places);
void register_inspect(const Places& places);
void register_judgement();
void register_sweep(const Places& places);
void register_append(const Places& places);
void register_contention(const Places& places);
void register_held(const Places& places);

}  // namespace sessionlock::bench
