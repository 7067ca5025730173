#pragma once

/// \file
/// What a file system can do for a lock, found out once and remembered.

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "system/system.hpp"
#include "verdict/classify.hpp"

namespace sessionlock {

/// How a complete file gets its name exclusively.
enum class Naming : std::uint8_t {
  untried,
  empty_path,       ///< `linkat` of a nameless file with `AT_EMPTY_PATH`
  descriptor_link,  ///< `linkat` of a nameless file through `/proc/thread-self/fd`
  temporary_link,   ///< `linkat` of a file with a temporary name
  temporary_rename  ///< `renameat2(RENAME_NOREPLACE)` of a file with a temporary name
};

/// Thread safety: safe; several threads that find out the same thing store the same answer.
struct FileSystemTraits {
  Locality locality{Locality::unknown};
  /// Known to be arbitrated by this kernel alone, as a file system or as an overlay.
  bool local{false};
  std::atomic<Naming> naming{Naming::untried};
  /// `flock` was seen to work, and whether it is independent of record locks.
  std::atomic<bool> locks_tried{false};
  /// Witness and marks may be used: OFD locks exist and do not collide with `flock`.
  std::atomic<bool> record_locks{true};
  /// Whether `locks_are_per_name` was tried out.
  std::atomic<bool> names_tried{false};
  /// To the kernel each name of a file is a file of its own, with locks of its own, as on many FUSE file systems: the
  /// high-level interface of libfuse knows paths, not files.
  std::atomic<bool> locks_are_per_name{false};
  /// Two files can exchange their names (`sys::exchange_names`), as far as is known.
  std::atomic<bool> exchanges_names{true};
  /// The inode number of an open file was seen to equal that of its name.
  std::atomic<bool> inodes_trusted{false};
};

/// Which kernels a file system of this `statfs` type may belong to. By a list of known good, because a list of known
/// bad is never complete.
[[nodiscard]] Locality locality_of(std::uint64_t type) noexcept;
[[nodiscard]] inline bool is_local_file_system(std::uint64_t type) noexcept {
  return locality_of(type) != Locality::unknown;
}

/// The name of a `statfs` type as mount(8) has it; its number in hexadecimal where it is not known here.
[[nodiscard]] std::string file_system_name(std::uint64_t type);

/// The traits of the file system that these identify. Device numbers of virtual file systems are given out again after
/// an unmount, and FUSE's have no id: what is not known to be local is told by its mount as well, and where the kernel
/// has no unique number for that (0) it is asked anew each time.
[[nodiscard]] std::shared_ptr<FileSystemTraits> traits_of(std::uint64_t device, std::uint64_t mount,
                                                          const sys::FileSystem& file_system);

}  // namespace sessionlock
