#include "record/lock_text.hpp"

#include <algorithm>
#include <charconv>
#include <cstddef>

#include "record/lock_fields.hpp"
#include "text/json_grammar.hpp"

namespace sessionlock {
namespace {

constexpr std::string_view k_blanks(" \t\r\n\0", 5);  // a power cut may leave NULs
constexpr std::string_view k_blanks_in_line(" \t\r\0", 4);
constexpr std::string_view k_digits = "0123456789";
constexpr std::string_view k_byte_order_mark = "\xef\xbb\xbf";

std::string_view trimmed(std::string_view text, std::string_view blanks) {
  const std::size_t first = text.find_first_not_of(blanks);
  return first == std::string_view::npos ? std::string_view{}
                                         : text.substr(first, text.find_last_not_of(blanks) + 1 - first);
}

bool is_digits(std::string_view text) {
  return !text.empty() && text.find_first_not_of(k_digits) == std::string_view::npos;
}

std::optional<pid_t> pid_of(std::string_view digits) {
  pid_t pid{};
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), pid);
  return parsed.ec == std::errc{} && pid > 0 ? std::optional(pid) : std::nullopt;
}

/// The first line that is not blank, without the blanks at its ends.
std::string_view first_line(std::string_view text) {
  const std::size_t start = text.find_first_not_of(k_blanks);
  if (start == std::string_view::npos) {
    return {};
  }
  text.remove_prefix(start);
  return trimmed(text.substr(0, text.find('\n')), k_blanks_in_line);
}

/// Walks the members of an object that may be cut off anywhere, or have anything in the texts of its members.
class Members {
 public:
  explicit Members(std::string_view text) : text_(text) {}

  /// Whether this is a whole object, or the beginning of one, with a member that a lock has, or with none.
  bool are_of_a_lock() {
    if (!take('{')) {
      return false;
    }
    bool is_first = true;
    for (End end = End::none; end != End::whole; is_first = false) {
      end = is_first && take('}') ? End::whole : read_member();
      if (end == End::broken) {
        return false;
      }
      if (end == End::cut_off) {
        break;
      }
    }
    return skip_space() == text_.size() && (has_lock_field_ || !has_field_);
  }

  /// The digits of the last member `pid`, if that is a text of digits.
  [[nodiscard]] std::string_view pid_digits() const { return pid_digits_; }

 private:
  enum class End { none, whole, cut_off, broken };

  std::size_t skip_space() {
    at_ = std::min(text_.find_first_not_of(k_space, at_), text_.size());
    return at_;
  }
  bool take(char c) {
    const bool found = skip_space() < text_.size() && text_[at_] == c;
    at_ += found ? 1 : 0;
    return found;
  }

  /// One member and what follows it.
  End read_member() {
    std::string_view name;
    if (!take('"')) {
      return at_ == text_.size() ? End::cut_off : End::broken;
    }
    if (!read_string(name)) {
      // The beginning of a name says nothing yet, unless no field of a lock begins like it.
      has_field_ = has_field_ || !begins_lock_field(name);
      return end_of_cut_text();
    }
    has_field_ = true;
    has_lock_field_ = has_lock_field_ || is_lock_field(name);
    if (!take(':')) {
      return at_ == text_.size() ? End::cut_off : End::broken;
    }
    if (const End value = read_value(name); value != End::none) {
      return value;
    }
    if (take(',')) {
      return End::none;
    }
    return take('}') ? End::whole : at_ == text_.size() ? End::cut_off : End::broken;
  }

  End read_value(std::string_view name) {
    if (name == "pid") {
      pid_digits_ = {};
    }
    if (skip_space() == text_.size()) {
      return End::cut_off;
    }
    const char first = text_[at_];
    if (first == '{' || first == '[') {
      return skip_container();
    }
    if (first == '"') {
      ++at_;
      std::string_view value;
      if (!read_string(value)) {
        return end_of_cut_text();
      }
      if (name == "pid" && is_digits(value)) {
        pid_digits_ = value;
      }
      return End::none;
    }
    const std::size_t end = std::min(text_.find_first_of(k_after_scalar, at_), text_.size());
    const std::string_view token = text_.substr(at_, end - at_);
    at_ = end;
    if (end == text_.size()) {
      return End::cut_off;
    }
    return is_json_number(token) || is_json_literal(token) ? End::none : End::broken;
  }

  /// From behind the opening quote to behind the closing one. False: there is none.
  bool read_string(std::string_view& body) {
    const std::size_t start = at_;
    while (at_ < text_.size() && text_[at_] != '"' && static_cast<unsigned char>(text_[at_]) >= 0x20) {
      at_ += text_[at_] == '\\' ? 2U : 1U;
    }
    at_ = std::min(at_, text_.size());
    body = text_.substr(start, at_ - start);
    if (at_ == text_.size() || text_[at_] != '"') {
      return false;
    }
    ++at_;
    return true;
  }

  /// Whether a string that does not end was cut off, or has what no string has.
  [[nodiscard]] End end_of_cut_text() const { return at_ == text_.size() ? End::cut_off : End::broken; }

  End skip_container() {
    std::size_t depth = 0;
    do {
      const char c = text_[at_++];
      if (c == '"') {
        std::string_view ignored;
        if (!read_string(ignored)) {
          return end_of_cut_text();
        }
      } else if (c == '{' || c == '[') {
        ++depth;
      } else if (c == '}' || c == ']') {
        --depth;
      }
    } while (depth > 0 && at_ < text_.size());
    return depth == 0 ? End::none : End::cut_off;
  }

  static constexpr std::string_view k_space = " \t\n\r";
  static constexpr std::string_view k_after_scalar = " \t\n\r,]}";

  std::string_view text_;
  std::size_t at_{0};
  bool has_field_{false};
  bool has_lock_field_{false};
  std::string_view pid_digits_{};
};

/// What a text without a usable pid can be.
LockText read_without_pid(std::string_view text, LockRecord&& record) {
  LockText read{LockForm::other, std::move(record), std::nullopt};
  if (text.find_first_not_of(k_blanks) == std::string_view::npos) {
    read.form = LockForm::blank;
    return read;
  }
  if (const std::string_view line = first_line(text); is_digits(line)) {
    read.form = LockForm::digits;
    read.digits_pid = pid_of(line);
    return read;
  }
  if (text.starts_with(k_byte_order_mark)) {
    text.remove_prefix(k_byte_order_mark.size());
  }
  Members members(trimmed(text, k_blanks));
  if (members.are_of_a_lock()) {
    read.form = LockForm::object;
    read.digits_pid = pid_of(members.pid_digits());
  }
  return read;
}

}  // namespace

LockText read_lock_text(std::string_view text) {
  LockRecord record = parse_lock_record(text);
  if (record.pid) {
    return {LockForm::object, std::move(record), std::nullopt};
  }
  return read_without_pid(text, std::move(record));
}

}  // namespace sessionlock
