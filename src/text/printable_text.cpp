#include "text/printable_text.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>

#include <fmt/core.h>

#include "text/utf8.hpp"

namespace sessionlock {
namespace {

struct Range {
  char32_t first;
  char32_t last;
};
// Unicode: spaces other than U+0020, characters that are not drawn (default ignorable), and the blank letters of
// Hangul.
constexpr std::array k_invisible{
    Range{0x00a0, 0x00a0}, Range{0x00ad, 0x00ad}, Range{0x034f, 0x034f},  Range{0x061c, 0x061c}, Range{0x115f, 0x1160},
    Range{0x1680, 0x1680}, Range{0x17b4, 0x17b5}, Range{0x180b, 0x180f},  Range{0x2000, 0x200f}, Range{0x2028, 0x202f},
    Range{0x205f, 0x206f}, Range{0x3000, 0x3000}, Range{0x3164, 0x3164},  Range{0xfe00, 0xfe0f}, Range{0xfeff, 0xfeff},
    Range{0xffa0, 0xffa0}, Range{0xfff0, 0xfffb}, Range{0xe0000, 0xe0fff}};

bool is_invisible(char32_t character) {
  return std::any_of(k_invisible.begin(), k_invisible.end(),
                     [=](const Range& range) { return range.first <= character && character <= range.last; });
}

/// The first character of a text that is not empty; one byte of it where it begins with none.
std::string_view first_character(std::string_view text) {
  const int leading_ones = std::countl_one(static_cast<unsigned char>(text.front()));
  const std::string_view character = text.substr(0, leading_ones >= 2 ? static_cast<std::size_t>(leading_ones) : 1);
  return is_utf8(character) ? character : text.substr(0, 1);
}

/// Of one valid character.
char32_t code_point(std::string_view character) {
  const auto first = static_cast<unsigned char>(character.front());
  char32_t value = first & (character.size() == 1 ? 0x7fU : 0xffU >> (character.size() + 1));
  for (const char next : character.substr(1)) {
    value = value << 6U | (static_cast<unsigned char>(next) & 0x3fU);
  }
  return value;
}

void append_escaped(std::string& out, std::string_view text, bool in_quotes) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0U;
    if (byte == '\n') {
      out += "\\n";
    } else if (byte == '\t') {
      out += "\\t";
    } else if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else if (byte == 0xc2 && next >= 0x80 && next <= 0x9f) {
      // U+0080 … U+009F: to some terminals these are what ESC and a letter are.
      out += fmt::format("\\u{:04x}", next);
      ++i;
    } else {
      if (in_quotes && (byte == '"' || byte == '\\')) {
        out += '\\';
      }
      out += text[i];
    }
  }
}

}  // namespace

std::string printable_text(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  append_escaped(out, text, false);
  return out;
}

std::string revealing_text(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const std::string_view character = first_character(text);
    if (!is_utf8(character)) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(character.front()));
    } else if (const char32_t value = code_point(character); is_invisible(value)) {
      out += value > 0xffff ? fmt::format("\\U{:08x}", static_cast<unsigned>(value))
                            : fmt::format("\\u{:04x}", static_cast<unsigned>(value));
    } else {
      append_escaped(out, character, false);
    }
    text.remove_prefix(character.size());
  }
  return out;
}

std::string quoted_text(std::string_view text) {
  std::string out{'"'};
  append_escaped(out, text, true);
  out += '"';
  return out;
}

}  // namespace sessionlock
