#pragma once

/// \file
/// What the text of a file at a lock path is: a lock, what may be left of one, or no lock at all.

#include <cstdint>
#include <optional>
#include <string_view>

#include <sys/types.h>

#include <sessionlock/lock_record.hpp>

namespace sessionlock {

/// What a text can be. Only the first three can be locks.
enum class LockForm : std::uint8_t {
  blank,   ///< Nothing but blanks and NULs: a lock that is being written, or what a power cut left of one.
  digits,  ///< A plain decimal number, blanks around it; further lines, or NULs, may follow.
  object,  ///< A JSON object, whole or cut off, that is empty or has a member that a lock has.
  other    ///< Anything else: a transcript, a list of packages, words.
};

/// The text of a file at a lock path, understood as far as it can be.
struct LockText {
  LockForm form{LockForm::blank};
  LockRecord record{};
  /// The process that digits name which stand where a record has its pid: those of a plain decimal file, or of a `pid`
  /// that is a string. Never a part of the record, and only there where the record has no pid.
  std::optional<pid_t> digits_pid{};

  friend bool operator==(const LockText&, const LockText&) = default;
};

/// Reads a text of at most `k_lock_record_bytes_max` bytes. Errors: as `parse_lock_record`. Thread safety: safe.
[[nodiscard]] LockText read_lock_text(std::string_view text);

}  // namespace sessionlock
