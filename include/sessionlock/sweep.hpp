#pragma once

/// \file
/// Inspecting and clearing a directory of locks.

#include <cstddef>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <sessionlock/error.hpp>
#include <sessionlock/export.hpp>
#include <sessionlock/staleness.hpp>

namespace sessionlock {

struct SweepOptions {
  /// Take away what is removable; otherwise only look.
  bool remove{true};
  /// Also the directories below. Symbolic links to directories are not followed.
  bool recursive{false};
  /// Only files whose names end so. Not empty, since then every file would be taken for a lock.
  std::string suffix{".jsonl.lock"};
  StalePolicy stale{};
  /// Called now and then, and at the end, with how far the sweep is; no lock of the library is held. In a recursive
  /// sweep `total` is what was found so far, and grows. What it throws is dropped, and the sweep goes on: locks may
  /// have been removed, and their owners' deaths are in the report alone.
  std::function<void(std::size_t done, std::size_t total)> progress{};
};

struct SweepReport {
  /// Every lock found, removed ones included, sorted by path.
  std::vector<Inspection> locks{};
  /// Those taken away, with the reason: an application may have to repair what their owners left undone.
  std::vector<Inspection> removed{};
  /// What could not be read or removed, and what is no lock file and was left in place; never ends the sweep. A lock
  /// that cannot be read is also in `locks`, as one that may be held, and so is one that could not be removed, with its
  /// `Inspection::obstacle`.
  std::vector<Error> errors{};
};

/// Inspects every lock in a directory and takes away what is provably nobody's, each by the protocol of an acquire.
///
/// What vanishes meanwhile is not reported. Temporary files of publishers that died are removed too, when older than
/// ten minutes. Returns: an empty report for a missing directory. Blocking: reads each lock once. Thread safety: safe.
/// Errors: the directory cannot be read; `Errc::invalid_argument` for an empty directory or suffix.
[[nodiscard]] SESSIONLOCK_API Result<SweepReport> sweep(const std::filesystem::path& directory,
                                                        const SweepOptions& options = {});

}  // namespace sessionlock
