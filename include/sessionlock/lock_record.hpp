#pragma once

/// \file
/// What a lock file says: one JSON object, read leniently and written strictly.
///
/// Reading never fails. A field of the wrong type or out of range is dropped by itself and the others are kept, because
/// one unreadable field must not turn a live owner's lock into an empty one. Of duplicate keys the last one counts, as
/// in JavaScript. Text that is not exactly one JSON object gives an empty record. This file knows no disk, clock or
/// process.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <sys/types.h>

#include <sessionlock/export.hpp>

namespace sessionlock {

/// The content of a lock file. A member that is absent was not in the file, or was malformed there.
struct LockRecord {
  /// Owner, as its own PID namespace numbers it: 1 … 2^31−1.
  std::optional<pid_t> pid{};
  /// Wall clock at publication as written, meant to be RFC 3339. The text is kept even where it is no valid time.
  std::optional<std::string> created_at{};
  /// `/proc/<pid>/stat` field 22: clock ticks after boot (proc_pid_stat(5)).
  std::optional<std::uint64_t> starttime{};
  /// How long the holder meant to hold it, in milliseconds.
  std::optional<std::int64_t> max_hold_ms{};
  /// This one acquisition: 32 hexadecimal digits.
  std::optional<std::string> lock_id{};
  /// `/proc/sys/kernel/random/boot_id` of the owner's kernel.
  std::optional<std::string> boot_id{};
  /// Inode number of the owner's `/proc/self/ns/pid`.
  std::optional<std::uint64_t> pid_namespace{};
  /// Inode number of the owner's `/proc/self/ns/time`; 0 where its kernel has no time namespaces.
  std::optional<std::uint64_t> time_namespace{};
  /// `ofd:<st_dev>:<st_ino>`: the owner holds the witness lock on exactly this inode for the whole hold.
  std::optional<std::string> witness{};
  /// Host name, for people to read; never evidence.
  std::optional<std::string> host{};
  /// The application's words, at most 1 KiB.
  std::optional<std::string> label{};
  /// Canonical session path; only where the lock does not lie beside its session.
  std::optional<std::string> session{};

  friend bool operator==(const LockRecord&, const LockRecord&) = default;
};

/// Longest text that is read as a lock record, in bytes.
inline constexpr std::size_t k_lock_record_bytes_max = std::size_t{64} * 1024;
/// Longest `label`, in bytes of UTF-8.
inline constexpr std::size_t k_label_bytes_max = 1024;

/// Reads a lock record from JSON text and never fails: what is malformed is absent.
///
/// Returns: the record; an empty one for anything that is not exactly one JSON object of at most
/// `k_lock_record_bytes_max` bytes.
/// Errors: `std::bad_alloc` where memory runs out, which must not look like a record without an owner.
/// Thread safety: safe from any thread.
[[nodiscard]] SESSIONLOCK_API LockRecord parse_lock_record(std::string_view json);

/// Writes a lock record as the text of a lock file: fields in a fixed order, indented by two spaces, one final newline.
///
/// Absent members are left out. Text members that are not valid UTF-8 have the offending bytes replaced by U+FFFD, so
/// that the result is always JSON.
/// Thread safety: safe from any thread.
[[nodiscard]] SESSIONLOCK_API std::string format_lock_record(const LockRecord& record);

}  // namespace sessionlock
