#include "json_oracle.hpp"

namespace sessionlock::fuzz {
namespace {

/// Thrown where a text stops being JSON.
struct NoJson {};

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Json document() {
    Json value = element();
    if (!text_.empty()) {
      throw NoJson{};
    }
    return value;
  }

 private:
  bool next_is(char c) const { return !text_.empty() && text_.front() == c; }
  bool next_is_digit() const { return !text_.empty() && text_.front() >= '0' && text_.front() <= '9'; }

  char take() {
    if (text_.empty()) {
      throw NoJson{};
    }
    const char c = text_.front();
    text_.remove_prefix(1);
    return c;
  }

  void take(std::string_view word) {
    for (const char c : word) {
      if (take() != c) {
        throw NoJson{};
      }
    }
  }

  void white_space() {
    while (next_is(' ') || next_is('\t') || next_is('\n') || next_is('\r')) {
      take();
    }
  }

  Json element() {
    white_space();
    Json result = value();
    white_space();
    return result;
  }

  Json value() {
    if (next_is('{')) {
      return object();
    }
    if (next_is('[')) {
      return array();
    }
    if (next_is('"')) {
      return {Json::Kind::text, string(), {}};
    }
    if (next_is('t')) {
      take("true");
      return {Json::Kind::boolean, {}, {}};
    }
    if (next_is('f')) {
      take("false");
      return {Json::Kind::boolean, {}, {}};
    }
    if (next_is('n')) {
      take("null");
      return {};
    }
    return number();
  }

  Json object() {
    Json result{Json::Kind::object, {}, {}};
    take("{");
    white_space();
    if (next_is('}')) {
      take();
      return result;
    }
    while (true) {
      white_space();
      auto key = string();
      white_space();
      take(":");
      result.members.emplace_back(std::move(key), element());
      const char c = take();
      if (c == '}') {
        return result;
      }
      if (c != ',') {
        throw NoJson{};
      }
    }
  }

  Json array() {
    take("[");
    white_space();
    if (next_is(']')) {
      take();
      return {Json::Kind::array, {}, {}};
    }
    while (true) {
      element();
      const char c = take();
      if (c == ']') {
        return {Json::Kind::array, {}, {}};
      }
      if (c != ',') {
        throw NoJson{};
      }
    }
  }

  void digits(std::string& out) {
    if (!next_is_digit()) {
      throw NoJson{};
    }
    while (next_is_digit()) {
      out += take();
    }
  }

  Json number() {
    std::string out;
    if (next_is('-')) {
      out += take();
    }
    if (next_is('0')) {
      out += take();
    } else {
      digits(out);
    }
    if (next_is('.')) {
      out += take();
      digits(out);
    }
    if (next_is('e') || next_is('E')) {
      out += take();
      if (next_is('+') || next_is('-')) {
        out += take();
      }
      digits(out);
    }
    return {Json::Kind::number, out, {}};
  }

  unsigned hex4() {
    unsigned value = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = take();
      const std::size_t digit =
          std::string_view{"0123456789abcdef"}.find(c >= 'A' && c <= 'F' ? char(c - 'A' + 'a') : c);
      if (digit == std::string_view::npos) {
        throw NoJson{};
      }
      value = value * 16 + static_cast<unsigned>(digit);
    }
    return value;
  }

  static void append_utf8(std::string& out, unsigned point) {
    const auto byte = [&out](unsigned value) { out += static_cast<char>(value); };
    if (point < 0x80) {
      byte(point);
    } else if (point < 0x800) {
      byte(0xc0 | point >> 6U);
      byte(0x80 | (point & 0x3fU));
    } else if (point < 0x10000) {
      byte(0xe0 | point >> 12U);
      byte(0x80 | (point >> 6U & 0x3fU));
      byte(0x80 | (point & 0x3fU));
    } else {
      byte(0xf0 | point >> 18U);
      byte(0x80 | (point >> 12U & 0x3fU));
      byte(0x80 | (point >> 6U & 0x3fU));
      byte(0x80 | (point & 0x3fU));
    }
  }

  std::optional<std::string> string() {
    std::string out;
    unsigned high = 0;  // first half of a pair, which the very next thing must complete
    bool has_half = false;
    take("\"");
    while (true) {
      char c = take();
      unsigned point = 0;
      bool is_escape16 = false;
      if (c == '"') {
        has_half = has_half || high != 0;
        return has_half ? std::nullopt : std::optional(out);
      }
      if (static_cast<unsigned char>(c) < 0x20) {
        throw NoJson{};
      }
      if (c == '\\') {
        c = take();
        const std::size_t simple = std::string_view{"\"\\/bfnrt"}.find(c);
        is_escape16 = c == 'u';
        if (is_escape16) {
          point = hex4();
        } else if (simple != std::string_view::npos) {
          c = "\"\\/\b\f\n\r\t"[simple];
        } else {
          throw NoJson{};
        }
      }
      if (high != 0) {
        if (is_escape16 && point >= 0xdc00 && point <= 0xdfff) {
          append_utf8(out, 0x10000 + ((high - 0xd800) << 10U) + (point - 0xdc00));
          high = 0;
          continue;
        }
        has_half = true;
        high = 0;
      }
      if (!is_escape16) {
        out += c;
      } else if (point >= 0xd800 && point <= 0xdbff) {
        high = point;
      } else if (point >= 0xdc00 && point <= 0xdfff) {
        has_half = true;
      } else {
        append_utf8(out, point);
      }
    }
  }

  std::string_view text_;
};

}  // namespace

bool is_utf8(std::string_view text) {
  const auto at = [text](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  for (std::size_t i = 0; i < text.size();) {
    const unsigned first = at(i);
    std::size_t length = 1;
    unsigned point = first;
    if (first >= 0x80) {
      length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
      if (first < 0xc0 || first > 0xf7 || i + length > text.size()) {
        return false;
      }
      point = first & (0x7fU >> length);
      for (std::size_t k = 1; k < length; ++k) {
        if ((at(i + k) & 0xc0U) != 0x80) {
          return false;
        }
        point = point << 6U | (at(i + k) & 0x3fU);
      }
      const unsigned lowest = length == 2 ? 0x80 : length == 3 ? 0x800 : 0x10000;
      if (point < lowest || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff)) {
        return false;
      }
    }
    i += length;
  }
  return true;
}

std::optional<Json> read_json(std::string_view text) {
  if (!is_utf8(text)) {
    return std::nullopt;
  }
  try {
    return Parser(text).document();
  } catch (const NoJson&) {
    return std::nullopt;
  }
}

}  // namespace sessionlock::fuzz
