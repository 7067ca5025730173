#pragma once

/// \file
/// What the file system under a directory can do for locks, found out by really trying it there.

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <sessionlock/error.hpp>
#include <sessionlock/export.hpp>

namespace sessionlock {

/// What locks are worth on a file system.
enum class LockSafety {
  safe,     ///< Everything works, and one kernel arbitrates it.
  limited,  ///< Locks exclude each other, but some evidence or comfort is missing: `FileSystemCheck::advice`.
  unsafe    ///< No lock can be had there: an acquire refuses.
};
/// "safe", "limited" or "unsafe". Lifetime: static storage.
[[nodiscard]] SESSIONLOCK_API std::string_view to_string(LockSafety safety);

/// What was tried, and what came of it.
struct SESSIONLOCK_API FileSystemCheck {
  /// Canonical.
  std::filesystem::path directory{};
  /// "ext4", "tmpfs", "nfs", …; the type's number in hexadecimal where it has no name here.
  std::string type{};
  /// On the list of file systems that one kernel arbitrates alone.
  bool local{false};
  /// A file can be made without a name, written, and then given one (open(2), `O_TMPFILE`).
  bool nameless_files{false};
  /// A hard link to a name that is taken is refused.
  bool exclusive_link{false};
  /// A rename to a name that is taken can be refused (renameat2(2), `RENAME_NOREPLACE`).
  bool exclusive_rename{false};
  /// flock(2) excludes a second opener.
  bool flock{false};
  /// An open-file-description lock is seen by a second opener (fcntl(2), Linux 3.15).
  bool record_locks{false};
  /// Those two do not stand in each other's way, as they do on NFS.
  bool independent_locks{false};
  /// An open file has the inode number of its name.
  bool stable_inodes{false};
  /// The loss of a name raises an event (inotify(7)).
  bool inotify{false};
  /// Why it does not, where that was said: EMFILE, for example.
  std::error_code inotify_failure{};
  /// The smallest step between two modification times that was seen; none if none was seen in three seconds.
  std::optional<std::chrono::nanoseconds> time_step{};
  LockSafety safety{LockSafety::unsafe};
  /// Why no lock could be had.
  std::optional<Error> refusal{};
  /// What to know or to do, a sentence each; empty where everything works.
  std::vector<std::string> advice{};
};

/// Tries all of it in a scratch directory of its own below `directory`, which it removes, and takes a lock there.
///
/// Blocking: some tens of milliseconds; up to eight seconds where times are coarse or events do not come.
/// Errors: `directory` does not exist, is none, or nothing can be made in it; our own shortages.
[[nodiscard]] SESSIONLOCK_API Result<FileSystemCheck> check_file_system(const std::filesystem::path& directory);

}  // namespace sessionlock
