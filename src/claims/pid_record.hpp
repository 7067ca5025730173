#pragma once

/// \file
/// What a PID file says, apart from disk, clock and processes: the part that only the library uses.

#include <string_view>

#include <sessionlock/pid_record.hpp>

namespace sessionlock {

/// What the text of a file at a PID file's path can be.
enum class PidTextForm {
  record,  ///< It names a process.
  blank,   ///< Nothing but blanks and NULs: a claim in progress, or what a power cut or a full disk left of one.
  torn,    ///< The beginning of a JSON form.
  no_pid,  ///< A number or a JSON object that names no usable process.
  other    ///< Anything else: a lock of packages, a transcript, words. It is somebody's, and never removed.
};
struct PidText {
  PidTextForm form{PidTextForm::blank};
  PidRecord record{};
};
/// Reads a text. Never fails.
[[nodiscard]] PidText read_pid_text(std::string_view text);

/// Whether a token has the form of those that count clock ticks; the others are ps(1)'s.
[[nodiscard]] bool is_tick_token(std::string_view token);

/// Whether a record that was found means the process that a claim was made for: it has that one's pid, the start token
/// if the claim wrote one, and names no other boot or PID namespace. A token that the claim had no place for may be
/// there, if it is right.
[[nodiscard]] bool means_owner_of(const PidRecord& claimed, const PidRecord& found);

/// Whether these are members of a JSON object that can stand beside those that the library writes.
[[nodiscard]] bool are_extra_fields(std::string_view fields);

}  // namespace sessionlock
