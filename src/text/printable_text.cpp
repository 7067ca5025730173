#include "text/printable_text.hpp"

#include <cstddef>

#include <fmt/core.h>

namespace sessionlock {
namespace {

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

std::string quoted_text(std::string_view text) {
  std::string out{'"'};
  append_escaped(out, text, true);
  out += '"';
  return out;
}

}  // namespace sessionlock
