#pragma once

/// \file
/// Names that nobody else gives: one for each acquisition.

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <system_error>
#include <tuple>

#include <sessionlock/error.hpp>

namespace sessionlock {

using RandomId = std::array<std::uint8_t, 16>;

/// An id that no other call gives, in this process or another: random bytes that are one process's, then a counter. Or
/// why there are none. Thread safety: safe; a forked child has other bytes than its parent.
[[nodiscard]] tl::expected<RandomId, std::error_code> random_id();
/// Two hexadecimal digits for each byte.
using HexText = std::array<char, 2 * std::tuple_size_v<RandomId>>;
[[nodiscard]] HexText hex_text(const RandomId& id);
/// The same as 32 hexadecimal digits.
[[nodiscard]] tl::expected<std::string, std::error_code> random_lock_id();
/// The error that there are none, for what has this path.
[[nodiscard]] Error random_failure(const std::error_code& code, const std::filesystem::path& path);

}  // namespace sessionlock
