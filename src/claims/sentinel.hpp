#pragma once

/// \file
/// What a sentinel's file says, apart from disk and clock: the part that only the library uses.

#include <optional>
#include <string_view>

#include "text/timestamp.hpp"

namespace sessionlock {

/// Decimal milliseconds since 1970 with or without one newline; none for anything else.
[[nodiscard]] std::optional<WallTime> parse_sentinel(std::string_view text);

/// Whether a file that says this and was modified then stands now. The clock may have been set back since it was
/// written, and it would stand for as much longer: no file stands for more than twice the time it was meant for, which
/// is what lies between its modification and its expiry.
[[nodiscard]] bool sentinel_is_active(std::string_view text, WallTime modified, WallTime now);

}  // namespace sessionlock
