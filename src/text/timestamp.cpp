#include "text/timestamp.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace sessionlock {
namespace {

/// Takes a date-time apart from left to right. Every step answers whether the text goes on as RFC 3339 wants it.
class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  [[nodiscard]] bool at_end() const { return position_ == text_.size(); }
  [[nodiscard]] char peek() const { return at_end() ? '\0' : text_[position_]; }

  bool skip(char wanted) { return skip_either(wanted, wanted); }
  bool skip_either(char one, char other) {
    if (at_end() || (text_[position_] != one && text_[position_] != other)) {
      return false;
    }
    ++position_;
    return true;
  }

  /// Exactly this many decimal digits, with a value from `min` to `max`.
  bool number(int digits, int min, int max, int& value) {
    value = 0;
    for (int i = 0; i < digits; ++i, ++position_) {
      if (!at_digit()) {
        return false;
      }
      value = value * 10 + (text_[position_] - '0');
    }
    return value >= min && value <= max;
  }

  /// One digit or more, of which the first three are milliseconds.
  bool fraction(int& milliseconds) {
    milliseconds = 0;
    if (!at_digit()) {
      return false;
    }
    for (int weight = 100; at_digit(); weight /= 10, ++position_) {
      milliseconds += weight * (text_[position_] - '0');
    }
    return true;
  }

 private:
  [[nodiscard]] bool at_digit() const { return !at_end() && text_[position_] >= '0' && text_[position_] <= '9'; }

  std::string_view text_;
  std::size_t position_{};
};

/// `Z`, `+hh:mm` or `-hh:mm`: how far local time is ahead of UTC.
bool read_offset(Reader& reader, std::chrono::minutes& ahead) {
  if (reader.skip_either('Z', 'z')) {
    ahead = std::chrono::minutes{0};
    return true;
  }
  const int sign = reader.peek() == '-' ? -1 : 1;
  int hours{};
  int minutes{};
  if (!reader.skip_either('+', '-') || !reader.number(2, 0, 23, hours) || !reader.skip(':') ||
      !reader.number(2, 0, 59, minutes)) {
    return false;
  }
  ahead = sign * (std::chrono::hours{hours} + std::chrono::minutes{minutes});
  return true;
}

// The years that four digits can name.
constexpr WallTime k_first = std::chrono::sys_days{std::chrono::year{0} / 1 / 1};
constexpr WallTime k_last = std::chrono::sys_days{std::chrono::year{10000} / 1 / 1} - std::chrono::milliseconds{1};

/// Writes a number that has at most so many digits, with leading zeros.
void put_number(Rfc3339Text& text, std::size_t first, std::size_t digits, unsigned number) {
  for (std::size_t at = first + digits; at-- > first; number /= 10) {
    text[at] = static_cast<char>('0' + number % 10);
  }
}

}  // namespace

std::chrono::milliseconds time_between(WallTime one, WallTime other) {
  const auto [earlier, later] = std::minmax({one.time_since_epoch().count(), other.time_since_epoch().count()});
  std::chrono::milliseconds::rep difference{};
  return __builtin_sub_overflow(later, earlier, &difference) ? std::chrono::milliseconds::max()
                                                             : std::chrono::milliseconds{difference};
}

std::chrono::milliseconds age_of(WallTime time, WallTime now) {
  return time < now ? time_between(time, now) : std::chrono::milliseconds{0};
}

std::optional<WallTime> parse_rfc3339(std::string_view text) {
  Reader reader{text};
  int year{};
  int month{};
  int day{};
  int hour{};
  int minute{};
  int second{};
  int millisecond{};
  std::chrono::minutes ahead{};
  const bool well_formed =
      reader.number(4, 0, 9999, year) && reader.skip('-') && reader.number(2, 1, 12, month) && reader.skip('-') &&
      reader.number(2, 1, 31, day) && reader.skip_either('T', 't') && reader.number(2, 0, 23, hour) &&
      reader.skip(':') && reader.number(2, 0, 59, minute) && reader.skip(':') && reader.number(2, 0, 60, second) &&
      (!reader.skip('.') || reader.fraction(millisecond)) && read_offset(reader, ahead) && reader.at_end();
  if (!well_formed) {
    return std::nullopt;
  }
  const std::chrono::year_month_day date{std::chrono::year{year}, std::chrono::month{static_cast<unsigned>(month)},
                                         std::chrono::day{static_cast<unsigned>(day)}};
  if (!date.ok()) {
    return std::nullopt;
  }
  // The clocks this is compared with have no leap seconds either: they repeat the 59th.
  second = std::min(second, 59);
  return std::chrono::sys_days{date} + std::chrono::hours{hour} + std::chrono::minutes{minute} +
         std::chrono::seconds{second} + std::chrono::milliseconds{millisecond} - ahead;
}

// By hand, because every publication of a lock ends with it, right after a sleep: general formatting is ten times the
// code, and none of it is in a cache then.
Rfc3339Text rfc3339_text(WallTime time) {
  // A clock beyond these years is broken; the text must stay readable for others even then.
  time = std::clamp(time, k_first, k_last);
  const auto midnight = std::chrono::floor<std::chrono::days>(time);
  const std::chrono::year_month_day date{midnight};
  const std::chrono::hh_mm_ss clock{time - midnight};
  Rfc3339Text text;
  constexpr std::string_view k_form = "0000-00-00T00:00:00.000Z";
  std::copy(k_form.begin(), k_form.end(), text.begin());
  put_number(text, 0, 4, static_cast<unsigned>(static_cast<int>(date.year())));
  put_number(text, 5, 2, static_cast<unsigned>(date.month()));
  put_number(text, 8, 2, static_cast<unsigned>(date.day()));
  put_number(text, 11, 2, static_cast<unsigned>(clock.hours().count()));
  put_number(text, 14, 2, static_cast<unsigned>(clock.minutes().count()));
  put_number(text, 17, 2, static_cast<unsigned>(clock.seconds().count()));
  put_number(text, 20, 3, static_cast<unsigned>(clock.subseconds().count()));
  return text;
}

std::string format_rfc3339(WallTime time) {
  const Rfc3339Text text = rfc3339_text(time);
  return {text.data(), text.size()};
}

}  // namespace sessionlock
