#include "text/json_grammar.hpp"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "text/utf8.hpp"

namespace sessionlock {
namespace {

constexpr std::string_view k_space = " \t\n\r";
constexpr std::string_view k_after_scalar = " \t\n\r,]}";

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

/// Steps over digits. Returns whether there was one.
bool skip_digits(std::string_view text, std::size_t& i) {
  const std::size_t start = i;
  while (i < text.size() && is_digit(text[i])) {
    ++i;
  }
  return i > start;
}

/// Goes once over a text. Whether it is UTF-8 is another question.
class Walk {
 public:
  explicit Walk(std::string_view text) : text_(text) {}

  bool is_one_value() {
    Expect expect = Expect::value;
    while (skip_space()) {
      if (!step(expect)) {
        return false;
      }
    }
    return expect == Expect::nothing_or_more && in_object_.empty();
  }

  /// Where the first value ends; none if there is no whole one.
  std::optional<std::size_t> end_of_value() {
    Expect expect = Expect::value;
    while (skip_space() && step(expect)) {
      if (expect == Expect::nothing_or_more && in_object_.empty()) {
        return at_;
      }
    }
    return std::nullopt;
  }

 private:
  enum class Expect {
    value,
    value_or_end,  ///< Behind a `[`.
    key,
    key_or_end,      ///< Behind a `{`.
    nothing_or_more  ///< Behind a value.
  };

  /// Returns whether anything else follows.
  bool skip_space() {
    at_ = std::min(text_.find_first_not_of(k_space, at_), text_.size());
    return at_ < text_.size();
  }

  bool step(Expect& expect) {
    const char c = text_[at_];
    if ((c == ']' && expect == Expect::value_or_end) || (c == '}' && expect == Expect::key_or_end)) {
      return close(c, expect);
    }
    if (expect == Expect::value || expect == Expect::value_or_end) {
      return read_value(c, expect);
    }
    if (expect == Expect::key || expect == Expect::key_or_end) {
      expect = Expect::value;
      return c == '"' && read_string() && skip_space() && text_[at_++] == ':';
    }
    return c == ',' ? read_comma(expect) : close(c, expect);
  }

  bool read_value(char c, Expect& expect) {
    if (c == '{' || c == '[') {
      ++at_;
      in_object_.push_back(c == '{');
      expect = c == '{' ? Expect::key_or_end : Expect::value_or_end;
      return true;
    }
    expect = Expect::nothing_or_more;
    if (c == '"') {
      return read_string();
    }
    const std::size_t end = std::min(text_.find_first_of(k_after_scalar, at_), text_.size());
    const std::string_view token = text_.substr(at_, end - at_);
    at_ = end;
    return is_json_number(token) || is_json_literal(token);
  }

  bool read_comma(Expect& expect) {
    ++at_;
    expect = !in_object_.empty() && in_object_.back() ? Expect::key : Expect::value;
    return !in_object_.empty();
  }

  bool close(char c, Expect& expect) {
    if (in_object_.empty() || c != (in_object_.back() ? '}' : ']')) {
      return false;
    }
    ++at_;
    in_object_.pop_back();
    expect = Expect::nothing_or_more;
    return true;
  }

  bool read_string() {
    const std::size_t start = ++at_;
    bool has_escapes = false;
    for (; at_ < text_.size() && text_[at_] != '"'; ++at_) {
      if (static_cast<unsigned char>(text_[at_]) < 0x20) {
        return false;
      }
      if (text_[at_] == '\\') {
        has_escapes = true;
        ++at_;  // whatever is escaped does not end the string
      }
    }
    if (at_ >= text_.size()) {
      return false;
    }
    const std::string_view body = text_.substr(start, at_ - start);
    ++at_;
    return !has_escapes || json_escapes_are_valid(body);
  }

  std::string_view text_;
  std::size_t at_{0};
  std::vector<bool> in_object_;  // for each container that is open
};

}  // namespace

bool is_json_number(std::string_view token) {
  std::size_t i = !token.empty() && token.front() == '-' ? 1 : 0;
  const bool leading_zero = i < token.size() && token[i] == '0';
  const std::size_t integer_start = i;
  if (!skip_digits(token, i) || (leading_zero && i > integer_start + 1)) {
    return false;
  }
  if (i < token.size() && token[i] == '.' && !skip_digits(token, ++i)) {
    return false;
  }
  if (i < token.size() && (token[i] == 'e' || token[i] == 'E')) {
    ++i;
    if (i < token.size() && (token[i] == '+' || token[i] == '-')) {
      ++i;
    }
    if (!skip_digits(token, i)) {
      return false;
    }
  }
  return i == token.size();
}

bool is_json_literal(std::string_view token) {
  return token == "null" || token == "true" || token == "false";
}

bool is_hex(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); });
}

bool json_escapes_are_valid(std::string_view body) {
  for (std::size_t i = body.find('\\'); i != std::string_view::npos; i = body.find('\\', i)) {
    const char escape = i + 1 < body.size() ? body[i + 1] : '\0';
    if (escape == 'u') {
      const std::string_view digits = body.substr(i + 2, 4);
      if (digits.size() < 4 || !is_hex(digits)) {
        return false;
      }
      i += 6;
    } else if (std::string_view{"\"\\/bfnrt"}.find(escape) != std::string_view::npos) {
      i += 2;
    } else {
      return false;
    }
  }
  return true;
}

bool is_json_value(std::string_view text) {
  return is_utf8(text) && Walk(text).is_one_value();
}

std::optional<std::size_t> end_of_json_value(std::string_view text) {
  const auto end = Walk(text).end_of_value();
  return end && is_utf8(text.substr(0, *end)) ? end : std::nullopt;
}

}  // namespace sessionlock
