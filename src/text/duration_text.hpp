#pragma once

/// \file
/// Durations as people write and read them. Part of the `lock_record` room: no clock is read here.

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

namespace sessionlock {

/// An age for people, cut to its two largest units: `950ms`, `12s`, `3m10s`, `2h5m`, `4d7h`. Below zero reads as zero.
[[nodiscard]] std::string format_age(std::chrono::milliseconds age);

/// A limit exactly as `parse_duration` reads it back, in the largest unit that divides it: `1500ms`, `10s`, `5m`, `1h`;
/// `inf` for `milliseconds::max()`. Below zero reads as zero.
[[nodiscard]] std::string format_limit(std::chrono::milliseconds limit);

/// Reads `500ms`, `10s`, `5m`, `1h`, `0`, or `inf` (`milliseconds::max()`).
/// Returns: none for anything else, such as a number without a unit (seconds to one program, milliseconds to the next),
/// a sign, a fraction, a space, or more milliseconds than 64 bits can hold.
[[nodiscard]] std::optional<std::chrono::milliseconds> parse_duration(std::string_view text);

}  // namespace sessionlock
