#include "text/json_text.hpp"

#include <algorithm>
#include <cstddef>

#include <fmt/core.h>

#include "text/utf8.hpp"

namespace sessionlock::json {
namespace {

/// The text with U+FFFD for every byte that is part of no UTF-8 character.
std::string repaired_utf8(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const auto byte = static_cast<unsigned char>(text.front());
    const std::size_t length = byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
    const bool valid = length <= text.size() && is_utf8(text.substr(0, length));
    out += valid ? text.substr(0, length) : "\xef\xbf\xbd";
    text.remove_prefix(valid ? length : 1);
  }
  return out;
}

bool needs_escape(char c) {
  return static_cast<unsigned char>(c) < 0x20 || c == '"' || c == '\\';
}

void append_escape(std::string& out, char c) {
  switch (c) {
    case '"':
    case '\\':
      out += '\\';
      out += c;
      break;
    case '\n':
      out += "\\n";
      break;
    case '\t':
      out += "\\t";
      break;
    default:
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
  }
}

void append_valid(std::string& out, std::string_view text) {
  out += '"';
  while (!text.empty()) {
    const auto plain = static_cast<std::size_t>(std::find_if(text.begin(), text.end(), needs_escape) - text.begin());
    out += text.substr(0, plain);
    text.remove_prefix(plain);
    if (!text.empty()) {
      append_escape(out, text.front());
      text.remove_prefix(1);
    }
  }
  out += '"';
}

}  // namespace

void append_string(std::string& out, std::string_view text) {
  if (is_utf8(text)) {
    append_valid(out, text);
  } else {
    append_valid(out, repaired_utf8(text));
  }
}

}  // namespace sessionlock::json
