#include "text/json_text.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <fmt/core.h>
#include <simdjson.h>

namespace sessionlock::json {
namespace {

/// simdjson keeps what it uses in objects that are made at the first use and destroyed at exit. Made first of all, they
/// outlive every static object of a program, whose destructor may still want to write under a lock.
[[gnu::constructor(101)]] void make_tables_first() {
  [[maybe_unused]] const bool is_valid = simdjson::validate_utf8("", 0);
}

/// The text with U+FFFD for every byte that is part of no UTF-8 character.
std::string repaired_utf8(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const auto byte = static_cast<unsigned char>(text.front());
    const std::size_t length = byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
    const bool valid = length <= text.size() && simdjson::validate_utf8(text.data(), length);
    out += valid ? text.substr(0, length) : "\xef\xbf\xbd";
    text.remove_prefix(valid ? length : 1);
  }
  return out;
}

bool needs_escape(char c) {
  return static_cast<unsigned char>(c) < 0x20 || c == '"' || c == '\\';
}

constexpr std::uint64_t k_ones = 0x0101010101010101;
constexpr std::uint64_t k_tops = 0x8080808080808080;

/// The top bit of each byte that is zero; wrong only above a byte that is zero indeed.
constexpr std::uint64_t zero_bytes(std::uint64_t word) {
  return (word - k_ones) & ~word & k_tops;
}

/// Not 0 if any of eight bytes is no ASCII or must be escaped.
constexpr std::uint64_t suspects(std::uint64_t word) {
  const std::uint64_t control = (word - k_ones * 0x20) & ~word & k_tops;
  return (word & k_tops) | control | zero_bytes(word ^ (k_ones * '"')) | zero_bytes(word ^ (k_ones * '\\'));
}

std::uint64_t load(const char* bytes) {
  std::uint64_t word = 0;
  std::memcpy(&word, bytes, sizeof word);
  return word;
}

/// Whether a text is ASCII that stands for itself, as everything in most records is: eight bytes at a time, because
/// every publication of a lock comes by here. The last eight may have been looked at before.
bool is_plain(std::string_view text) {
  constexpr std::size_t k_step = sizeof(std::uint64_t);
  if (text.size() < k_step) {
    return std::none_of(text.begin(), text.end(), [](char c) { return needs_escape(c) || (c & '\x80') != 0; });
  }
  const char* const last = text.data() + text.size() - k_step;
  std::uint64_t found = suspects(load(last));
  for (const char* at = text.data(); at < last; at += k_step) {
    found |= suspects(load(at));
  }
  return found == 0;
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
  if (is_plain(text)) {
    out.append(text.size() + 2, '"');
    text.copy(out.data() + out.size() - text.size() - 1, text.size());
  } else if (simdjson::validate_utf8(text.data(), text.size())) {
    append_valid(out, text);
  } else {
    append_valid(out, repaired_utf8(text));
  }
}

}  // namespace sessionlock::json
