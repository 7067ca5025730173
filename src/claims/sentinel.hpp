#pragma once

/// \file
/// What a sentinel's file says, apart from disk and clock: the part that only the library uses.

#include <optional>
#include <string_view>

#include "text/timestamp.hpp"

namespace sessionlock {

/// Whether a file with this content can be a sentinel: it is empty, or has nothing but digits and blanks in it, and
/// NULs, which a power cut leaves; at most 32 bytes.
[[nodiscard]] bool is_sentinel_text(std::string_view text);

/// Decimal milliseconds since 1970 with or without one newline; none for anything else.
[[nodiscard]] std::optional<WallTime> parse_sentinel(std::string_view text);

/// Whether a file that says this and was modified then stands now. The clock may have been set back since it was
/// written, and it would stand for as much longer: no file stands for more than twice the time it was meant for, which
/// is what lies between its modification and its expiry.
[[nodiscard]] bool sentinel_is_active(std::string_view text, WallTime modified, WallTime now);

/// Whether a file that says this is a sentinel that has ended and may be removed: by the clock of this machine, and by
/// that of its file system, which may be a server's and say that it still stands; none: that clock cannot be read.
[[nodiscard]] bool sentinel_has_ended(std::string_view text, WallTime modified, WallTime now,
                                      std::optional<WallTime> file_system_now);

}  // namespace sessionlock
