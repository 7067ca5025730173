#pragma once

/// \file
/// RFC 3339 times, as `createdAt` has them. Part of the `lock_record` room: no clock is read here.

#include <array>
#include <chrono>
#include <optional>
#include <string>
#include <string_view>

namespace sessionlock {

using WallTime = std::chrono::sys_time<std::chrono::milliseconds>;

/// How far two times are apart, whichever is later. Saturates: a file's time can be anything at all.
[[nodiscard]] std::chrono::milliseconds time_between(WallTime one, WallTime other);

/// How long ago a time was; 0 for one that lies ahead, since a clock that is set back, or a file system whose clock is
/// ahead, must not make old what is new. Saturates.
[[nodiscard]] std::chrono::milliseconds age_of(WallTime time, WallTime now);

/// Reads an RFC 3339 date-time: any offset, any number of fraction digits (cut to milliseconds), `T`/`Z` in either
/// case, a leap second as the last second of its minute. Returns none for anything else.
[[nodiscard]] std::optional<WallTime> parse_rfc3339(std::string_view text);

/// `2026-11-20T03:31:48.712Z`.
using Rfc3339Text = std::array<char, 24>;
[[nodiscard]] Rfc3339Text rfc3339_text(WallTime time);
[[nodiscard]] std::string format_rfc3339(WallTime time);

}  // namespace sessionlock
