#pragma once

/// \file
/// The protocol on disk (docs/protocol.md): pin, remove, guard; `publication.hpp` has the rest. It
/// waits for nobody and knows no threads; whoever calls it does.
///
/// INVARIANT 1: a lock path is only ever unlinked by a process that holds `flock` on the inode it names, and has
/// compared the two under that `flock`.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include <sessionlock/error.hpp>
#include <sessionlock/lock_record.hpp>

#include "protocol/lock_directory.hpp"
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

/// What lies at a path, pinned: while the descriptor is open, its inode's number cannot be used again, so decisions can
/// be made on it.
struct PinnedFile {
  sys::Fd fd;
  FileIdentity file;
  WallTime modified{};
  nlink_t links{1};
  /// Its content; at most `k_lock_record_bytes_max` bytes of it.
  std::string text;
  /// There is more than that.
  bool too_long{false};
  /// The file is there and cannot be read (EACCES, EPERM, EIO, ESTALE, …); nothing else is known then.
  std::error_code unreadable{};
};
/// Opens and reads a file that is `published`. None: there is none.
/// Errors: `Errc::not_a_lock_file` for a symbolic link, directory, FIFO, socket or device; our own shortages (EMFILE,
/// ENFILE, ENOMEM) under their own names.
[[nodiscard]] Result<std::optional<PinnedFile>> pin_file(const Place& place);
/// Reads a pinned file's content and time again. Errors: those of the calls.
[[nodiscard]] Result<void> read_again(PinnedFile& pinned, const Place& place);

/// A pinned file that is a lock.
struct PinnedLock : PinnedFile {
  LockRecord record;
};
/// Opens and reads the lock file. None: there is no lock.
/// Errors: as `pin_file`; `Errc::not_a_lock_file` for an over-long file, too.
[[nodiscard]] Result<std::optional<PinnedLock>> pin(const Place& place);

/// Asks the kernel whether anybody holds the witness of a pinned lock.
struct WitnessAnswer {
  WitnessQuery query{WitnessQuery::not_asked};
  std::error_code failure{};
};
[[nodiscard]] WitnessAnswer query_witness(const PinnedLock& pinned);

enum class Removal {
  removed,
  busy,     ///< Somebody else has the inode's `flock`: is removing it, or is inside a guarded write.
  spared,   ///< Under the `flock` it turned out not to be removable.
  replaced  ///< The path does not name the pinned inode any more.
};
/// Takes a file away that was judged removable: locks the inode, lets `still_removable` judge what it says now,
/// compares it with what the path names, and only then unlinks. Errors: of the calls, under their own names; of
/// `still_removable`.
[[nodiscard]] Result<Removal> remove_verified(const Place& place, PinnedFile& pinned,
                                              const std::function<Result<bool>()>& still_removable);
[[nodiscard]] Result<Removal> remove_verified(const Place& place, PinnedLock& pinned,
                                              const std::function<Result<bool>()>& still_removable);

/// Answer of the steps that a signal handler may take too: no exception, no allocation.
struct Step {
  enum class Answer {
    done,
    busy,   ///< Somebody else has the inode's `flock`.
    other,  ///< The path names another inode, or nothing.
    failed  ///< `call` failed with `error`.
  };
  Answer answer{Answer::done};
  sys::Call call{};
  int error{};
};
/// Tries to lock the inode of a hold and checks that its path still names it: once that is done, nobody else can remove
/// it until `leave_guard`. Async-signal-safe.
[[nodiscard]] Step try_enter_guard(int directory, const char* name, int fd, const FileIdentity& file) noexcept;
/// Async-signal-safe.
Step leave_guard(int fd) noexcept;
/// Whether the path names this inode: `done` or `other`. Async-signal-safe.
[[nodiscard]] Step names_inode(int directory, const char* name, const FileIdentity& file) noexcept;
/// The failed step as an error about a path.
[[nodiscard]] Error to_error(const Step& step, const std::filesystem::path& path);

/// Says to the holder that somebody waits, until the pinned descriptor is closed. Does nothing where marks cannot be
/// had.
void mark_waiting(const PinnedLock& pinned, const FileSystemTraits& traits);
/// Whether somebody's mark is on the lock.
[[nodiscard]] bool has_waiting_mark(int fd, const FileSystemTraits& traits);

}  // namespace sessionlock
