#pragma once

/// \file
/// The grammar of JSON (RFC 8259) where every byte of a text must be judged, which simdjson leaves out for what it is
/// not asked for. Part of the `lock_record` room.

#include <cstddef>
#include <optional>
#include <string_view>

namespace sessionlock {

/// Whether a token is a number, of any size.
[[nodiscard]] bool is_json_number(std::string_view token);
/// Whether a token is `null`, `true` or `false`.
[[nodiscard]] bool is_json_literal(std::string_view token);
/// Whether these are hexadecimal digits, of either case.
[[nodiscard]] bool is_hex(std::string_view text);
/// Whether the escapes between a string's quotes are JSON. Which characters they make is another question.
[[nodiscard]] bool json_escapes_are_valid(std::string_view body);

/// Whether a text is exactly one JSON value in UTF-8, with white space around it or not. Nests as deep as it likes:
/// each level costs one bit of memory and nothing of the stack.
[[nodiscard]] bool is_json_value(std::string_view text);

/// Where the JSON value ends with which a text begins, white space before it or not; none if it begins with no whole
/// value. What follows the value is not looked at, but for a number or a word, which end before white space, `,`, `]`,
/// `}` or the end of the text.
[[nodiscard]] std::optional<std::size_t> end_of_json_value(std::string_view text);

}  // namespace sessionlock
