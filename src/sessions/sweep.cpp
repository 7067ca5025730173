#include <sessionlock/sweep.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <functional>
#include <iterator>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include <fcntl.h>

#include "hold/lock_queue.hpp"
#include "process/this_process.hpp"
#include "protocol/inspector.hpp"
#include "protocol/lock_file.hpp"
#include "protocol/obstacle.hpp"
#include "protocol/reclaim.hpp"
#include "protocol/temporary_name.hpp"
#include "system/cancellation.hpp"
#include "system/paths.hpp"
#include "verdict/explanation.hpp"
#include "verdict/failure.hpp"

namespace sessionlock {
namespace {

/// A lock that others keep replacing between look and act is reported as it was last seen.
constexpr int k_looks_max = 4;
constexpr std::size_t k_progress_interval = 64;
/// How long a file system's clock is remembered. What it says of ages is wrong by no more.
constexpr std::chrono::seconds k_clock_age_max{1};

/// Nothing to report: what was there is gone, or is no directory any more.
bool is_gone(const Error& error) {
  return error.code == std::errc::no_such_file_or_directory || error.code == std::errc::not_a_directory ||
         error.code == std::errc::too_many_symbolic_link_levels;
}

/// Orders paths as their elements: a directory's content comes before what only has its name as a prefix.
bool comes_before(const std::filesystem::path& a, const std::filesystem::path& b) {
  const std::string& left = a.native();
  const std::string& right = b.native();
  const auto [l, r] = std::mismatch(left.begin(), left.end(), right.begin(), right.end());
  if (l == left.end() || r == right.end()) {
    return l == left.end() && r != right.end();
  }
  const auto rank = [](char c) { return c == '/' ? 0 : 1 + static_cast<unsigned char>(c); };
  return rank(*l) < rank(*r);
}

/// The names in a directory that matter to a sweep.
struct Names {
  std::vector<std::string> locks;
  std::vector<std::string> temporary;
};

/// What was found, in the order of the names.
struct Findings {
  std::vector<Inspection> locks;
  std::vector<Error> errors;
};

/// Looks at locks one by one, and removes what may go.
class Examiner {
 public:
  explicit Examiner(const SweepOptions& options);

  void inspect(const Place& place, Findings& findings);
  void remove_temporary(const Place& place, Findings& findings);

 private:
  /// The time by the directory's file system, not older than `k_clock_age_max`.
  [[nodiscard]] WallTime clock_of(const Directory& directory);

  const SweepOptions& options_;
  InspectionContext first_look_{};
  InspectionContext last_look_{};
  // Evidence that is remembered for the first look. It may have changed since, so a removal asks everything again:
  // 1. A dead owner's pid is asked for: gone. 2. Another program is given that pid and makes a lock without a witness.
  // 3. The sweep comes to that lock, remembers "gone", and would take a living owner's lock away.
  std::unordered_map<pid_t, ProcessProbe> probes_;
  struct {
    FileIdentity directory;
    WallTime time;
    std::chrono::steady_clock::time_point asked;
  } clock_{};
};

/// One sweep under way.
class Sweep {
 public:
  explicit Sweep(const SweepOptions& options) : options_(options), examiner_(options) {}

  /// Errors: the directory cannot be read. Everything else goes into the report.
  Result<void> take_in(const DirectoryPtr& directory);
  /// All directories below, without following symbolic links.
  void take_in_below(const DirectoryPtr& root);
  SweepReport finish();

 private:
  [[nodiscard]] Result<Names> list(const Directory& directory) const;
  [[nodiscard]] std::vector<std::string> list_subdirectories(const Directory& directory);
  void report_progress();
  void call_progress() noexcept;

  const SweepOptions& options_;
  Examiner examiner_;
  Findings findings_{};
  int directories_{0};
  std::size_t done_{0};
  std::size_t total_{0};
};

Examiner::Examiner(const SweepOptions& options) : options_(options) {
  last_look_.policy = options.stale;
  last_look_.held_here = is_held_here;
  first_look_ = last_look_;
  first_look_.observer = &current_observer();
  first_look_.clock = [this](const Directory& directory) { return clock_of(directory); };
  first_look_.probe = [this](pid_t pid) {
    const auto [remembered, is_new] = probes_.try_emplace(pid);
    if (is_new) {
      remembered->second = probe_process(pid);
    }
    return remembered->second;
  };
}

Result<Names> Sweep::list(const Directory& directory) const {
  Names names;
  auto read = for_each_name(directory, [&](std::string_view name) {
    if (name.ends_with(options_.suffix)) {
      names.locks.emplace_back(name);
    } else if (options_.remove && is_temporary_name_with_suffix(name, options_.suffix)) {
      names.temporary.emplace_back(name);
    }
  });
  if (!read) {
    return tl::unexpected(std::move(read).error());
  }
  std::sort(names.locks.begin(), names.locks.end());
  return names;
}

Result<void> Sweep::take_in(const DirectoryPtr& directory) {
  auto names = list(*directory);
  if (!names) {
    return tl::unexpected(std::move(names).error());
  }
  ++directories_;
  Place place{directory, {}};
  for (auto& name : names->temporary) {
    place.name = std::move(name);
    examiner_.remove_temporary(place, findings_);
  }
  total_ += names->locks.size();
  for (auto& name : names->locks) {
    place.name = std::move(name);
    examiner_.inspect(place, findings_);
    ++done_;
    report_progress();
  }
  return {};
}

void Sweep::take_in_below(const DirectoryPtr& root) {
  struct Level {
    DirectoryPtr directory;
    std::vector<std::string> names;
  };
  std::vector<Level> levels;
  levels.push_back({root, list_subdirectories(*root)});
  while (!levels.empty()) {
    Level& level = levels.back();
    if (level.names.empty()) {
      levels.pop_back();
      continue;
    }
    auto entered = open_subdirectory(*level.directory, level.names.back());
    level.names.pop_back();
    auto done = entered ? take_in(*entered) : Result<void>(tl::unexpected(entered.error()));
    if (done) {
      auto names = list_subdirectories(**entered);
      levels.push_back({std::move(*entered), std::move(names)});
    } else if (!is_gone(done.error())) {
      findings_.errors.push_back(std::move(done).error());
    }
  }
}

/// In descending order, to be taken from the back.
std::vector<std::string> Sweep::list_subdirectories(const Directory& directory) {
  std::error_code error;
  std::vector<std::string> names = sys::subdirectories(directory.path, error);
  if (error && error != std::errc::no_such_file_or_directory) {
    findings_.errors.push_back({error, "list directories", directory.path, std::nullopt, {}});
  }
  std::sort(names.rbegin(), names.rend());
  return names;
}

void Examiner::inspect(const Place& place, Findings& findings) {
  for (int look = 1;; ++look) {
    auto pinned = pin(place);
    if (!pinned) {
      findings.errors.push_back(std::move(pinned).error());
      return;
    }
    if (!pinned->has_value()) {
      return;
    }
    Inspection inspection = judge(**pinned, place, first_look_);
    if (options_.remove && inspection.removable) {
      auto ended = reclaim(place, **pinned, inspection, last_look_);
      if (!ended) {
        note_obstacle(inspection, ended.error());
        findings.errors.push_back(std::move(ended).error());
      } else if (*ended == Reclaim::replaced && look < k_looks_max) {
        continue;
      }
    } else if (inspection.removable) {
      if (const auto obstacle = removal_obstacle(place, **pinned)) {
        note_obstacle(inspection, *obstacle);
      }
    }
    inspection.session_path = session_path_of(inspection.record, place);
    if (inspection.basis == Basis::unreadable) {
      findings.errors.push_back({inspection.cause, "read lock", inspection.lock_path, std::nullopt,
                                 inspection.denied_by ? denied_words(*inspection.denied_by) : std::string{}});
    }
    findings.locks.push_back(std::move(inspection));
    return;
  }
}

void Examiner::remove_temporary(const Place& place, Findings& findings) {
  if (auto removed = remove_if_left_behind(place, clock_of(*place.directory)); !removed) {
    findings.errors.push_back(std::move(removed).error());
  }
}

WallTime Examiner::clock_of(const Directory& directory) {
  const auto now = std::chrono::steady_clock::now();
  if (clock_.directory != directory.identity || now - clock_.asked > k_clock_age_max) {
    clock_ = {directory.identity, file_system_clock(directory.fd.get()).value_or(sys::wall_clock()), now};
  }
  return clock_.time;
}

/// Now and then; that all is done is reported by `finish`.
void Sweep::report_progress() {
  if (done_ % k_progress_interval == 0 && done_ < total_) {
    call_progress();
  }
}

/// What it throws is dropped: locks may have been removed, and it is the report that tells of them.
void Sweep::call_progress() noexcept {
  if (!options_.progress) {
    return;
  }
  const sys::CancellationDisabled disabled;  // an exception that nobody may swallow would be swallowed here
  try {
    options_.progress(done_, total_);
  } catch (...) {
  }
}

SweepReport Sweep::finish() {
  const auto by_path = [](const Inspection& a, const Inspection& b) { return comes_before(a.lock_path, b.lock_path); };
  // One directory is in order already; inspections are large, so they move only where they must.
  if (directories_ > 1 && !std::is_sorted(findings_.locks.begin(), findings_.locks.end(), by_path)) {
    std::sort(findings_.locks.begin(), findings_.locks.end(), by_path);
  }
  SweepReport report{std::move(findings_.locks), {}, std::move(findings_.errors)};
  std::copy_if(report.locks.begin(), report.locks.end(), std::back_inserter(report.removed),
               [](const Inspection& inspection) { return inspection.removed; });
  if (total_ > 0) {
    call_progress();
  }
  return report;
}

}  // namespace

Result<SweepReport> sweep(const std::filesystem::path& directory, const SweepOptions& options) {
  if (options.remove) {
    retry_failed_releases();
  }
  if (directory.empty() || options.suffix.empty()) {
    return failure(
        Errc::invalid_argument, "sweep", directory,
        directory.empty() ? "no directory is named" : "without a suffix every file would be taken for a lock");
  }
  auto root = open_directory(directory);
  if (!root) {
    return root.error().code == std::errc::no_such_file_or_directory ? Result<SweepReport>(SweepReport{})
                                                                     : tl::unexpected(std::move(root).error());
  }
  Sweep sweep(options);
  if (auto taken_in = sweep.take_in(*root); !taken_in) {
    if (taken_in.error().code == std::errc::no_such_file_or_directory) {
      return SweepReport{};
    }
    return tl::unexpected(std::move(taken_in).error());
  }
  if (options.recursive) {
    sweep.take_in_below(*root);
  }
  return sweep.finish();
}

}  // namespace sessionlock
