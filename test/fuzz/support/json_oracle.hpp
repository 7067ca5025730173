#pragma once

/// \file
/// JSON (RFC 8259) read in the plainest way there is: one function for each rule of the grammar, a tree as the result,
/// numbers as the decimal digits they are. Shares nothing with what it judges (`src/record/lock_record.cpp`,
/// `src/text/json_grammar.cpp`): no library, no function, and no author's habit of looking at tokens.

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sessionlock::fuzz {

/// Nests no deeper than this: the oracle calls itself for each level.
inline constexpr std::size_t k_oracle_bytes_max = 8192;

struct Json {
  enum class Kind { null, boolean, number, text, array, object };
  Kind kind{Kind::null};
  /// Of a text, in UTF-8; none if it has half a surrogate pair in it, which no UTF-8 can say. Of a number, as written.
  std::optional<std::string> text{};
  /// Of an object, in the order in which they stand there. Keys as texts.
  std::vector<std::pair<std::optional<std::string>, Json>> members{};
};

/// The value that a text is, with white space around it or not; none if it is not exactly one.
[[nodiscard]] std::optional<Json> read_json(std::string_view text);

/// Whether a text is UTF-8 (RFC 3629).
[[nodiscard]] bool is_utf8(std::string_view text);

}  // namespace sessionlock::fuzz
