#pragma once

/// \file
/// Permissions of files as people write and read them, and which of them files that the library makes can have.

#include <optional>
#include <string>
#include <string_view>

#include <sys/types.h>

namespace sessionlock {

/// Octal, with a leading zero: `0640`.
[[nodiscard]] std::string format_mode(mode_t mode);

/// Reads octal digits, with or without leading zeros. None for anything else, and for more than seven digits.
[[nodiscard]] std::optional<mode_t> parse_mode(std::string_view text);

/// Why no lock and no session can be asked for with this mode; empty if one can. Every mode without execute and special
/// bits will do that lets the owner read and write: 0600 to 0666.
[[nodiscard]] std::string mode_fault(mode_t mode);

}  // namespace sessionlock
