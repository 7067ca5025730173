#pragma once

/// \file
/// What a file system can do for locks, found out by trying it on files that nobody else uses. An acquire does so once
/// for each file system and remembers the answers (`FileSystemTraits`); `check_file_system` does so each time. Both
/// call these functions, so that what is reported is what an acquire goes by.

#include <system_error>

#include "protocol/directory.hpp"

namespace sessionlock {

/// Whether an errno means that the file system, or the kernel, does not know the call.
[[nodiscard]] bool is_unsupported(int error) noexcept;

/// What two open file descriptions of one file showed of the locks on it.
struct LockTrial {
  /// flock(2) by one keeps the other out.
  bool flock{false};
  /// Why there is no flock at all, where that was said.
  std::error_code flock_failure{};
  /// There are OFD locks (fcntl(2)), and one description sees those of the other.
  bool record_locks{false};
  /// They do not stand in the way of flock, as they do on NFS, which turns it into a record lock on the whole file.
  bool independent{false};

  /// A witness and waiters' marks can be used.
  [[nodiscard]] bool carries_witness() const noexcept { return record_locks && independent; }
};
/// Tries the locks of a file by two descriptors that were opened separately; none is left. `place`: for words.
/// Errors: a shortage, or a fault of the disk; nothing is known then.
[[nodiscard]] Result<LockTrial> try_locks(int first, int second, const Place& place);

/// A link to a nameless file, and by which way it was made.
struct NamelessLink {
  /// An errno; 0: it was made.
  int error{};
  /// The way that works there, if that was seen.
  Naming way{Naming::untried};
};
/// Links a nameless file, by the way that is `known` to work or by each in turn. ENOENT and EPERM do not say whether
/// the way is missing (no capability, no /proc) or the directory is; only the success of another way shows that.
[[nodiscard]] NamelessLink link_nameless(int fd, int directory, const char* name, Naming known);

}  // namespace sessionlock
