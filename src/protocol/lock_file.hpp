#pragma once

/// \file
/// A file at a lock path, opened, read and kept open; its witness and its waiters' marks. Nothing here waits.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <sessionlock/error.hpp>
#include <sessionlock/staleness.hpp>

#include "protocol/directory.hpp"
#include "record/lock_text.hpp"
#include "system/system.hpp"
#include "text/timestamp.hpp"
#include "verdict/classify.hpp"
#include "verdict/failure.hpp"

namespace sessionlock {

/// An error about what is at a place.
inline tl::unexpected<Error> failure(std::error_code code, std::string operation, const Place& place,
                                     std::string detail = {}) {
  return failure(code, std::move(operation), place.path(), std::move(detail));
}

/// Offset of the witness byte: far outside the content, so that network file systems with mandatory locks can still
/// read the record. The byte after it carries the waiters' marks.
inline constexpr std::int64_t k_witness_offset = std::int64_t{1} << 40;
inline constexpr std::int64_t k_mark_offset = k_witness_offset + 1;

/// An inode that lies at a path, pinned: while the descriptor is open, its number cannot be used again, so decisions
/// can be made on it.
struct PinnedInode {
  sys::Fd fd;
  FileIdentity file;
  WallTime modified{};
  nlink_t links{1};
  /// Of a file that may not be opened (EACCES): who could.
  std::optional<FileAccess> denied_by{};
};

/// What a file says.
struct FileContent {
  /// At most `k_lock_record_bytes_max` bytes of it.
  std::string text;
  /// There is more than that.
  bool too_long{false};
};
/// What was read, or why a file that is there cannot be read (EACCES, EPERM, EIO, ESTALE, …).
template <class T>
using Readable = tl::expected<T, std::error_code>;

/// A pinned file. Of one that could not even be opened nothing else is known, and there is no descriptor.
struct PinnedFile : PinnedInode {
  Readable<FileContent> content{};
};
/// Opens and reads a file that is `published`. None: there is none.
/// Errors: `Errc::not_a_lock_file` for a symbolic link, directory, FIFO, socket or device; our own shortages (EMFILE,
/// ENFILE, ENOMEM) under their own names.
[[nodiscard]] Result<std::optional<PinnedFile>> pin_file(const Place& place);

/// Whether a file says exactly this.
[[nodiscard]] bool says(const PinnedFile& pinned, std::string_view text);

/// A pinned file at a lock path.
struct PinnedLock : PinnedInode {
  Readable<LockText> content{};
};
/// Opens and reads the lock file. None: there is no lock.
/// Errors: as `pin_file`; `Errc::not_a_lock_file` for an over-long file, too.
[[nodiscard]] Result<std::optional<PinnedLock>> pin(const Place& place);

/// Reads a pinned file's content and time again. Errors: those of the calls; for a lock, as `pin`.
[[nodiscard]] Result<void> read_again(PinnedFile& pinned, const Place& place);
[[nodiscard]] Result<void> read_again(PinnedLock& pinned, const Place& place);

/// Which kernels can have the file. Asks the file itself: it may be mounted over a name in a directory of another file
/// system.
[[nodiscard]] Locality locality_of_file(const PinnedInode& pinned);

/// Asks the kernel whether any process holds the witness of a pinned file.
struct WitnessAnswer {
  WitnessQuery query{WitnessQuery::not_asked};
  std::error_code failure{};
};
[[nodiscard]] WitnessAnswer query_witness(const PinnedInode& pinned);

/// Says to the holder that somebody waits, until the descriptor, one of the lock file, is closed. Does nothing where
/// marks cannot be had.
void mark_waiting(int fd, const FileSystemTraits& traits);
/// Whether somebody's mark is on the lock.
[[nodiscard]] bool has_waiting_mark(int fd, const FileSystemTraits& traits);

}  // namespace sessionlock
