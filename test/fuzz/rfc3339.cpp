// RFC 3339 times, against the C library's calendar.

#include <ctime>
#include <optional>
#include <string>
#include <string_view>

#include "support/target.hpp"
#include "text/timestamp.hpp"

using sessionlock::format_rfc3339;
using sessionlock::parse_rfc3339;
using sessionlock::WallTime;

namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

/// Whether a text looks like a pattern in which 0 stands for a digit, T for T or t, Z for Z or z, + for a sign.
bool looks_like(std::string_view text, std::string_view pattern) {
  if (text.size() != pattern.size()) {
    return false;
  }
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const char p = pattern[i];
    const bool fits = p == '0'   ? is_digit(c)
                      : p == 'T' ? c == 'T' || c == 't'
                      : p == 'Z' ? c == 'Z' || c == 'z'
                      : p == '+' ? c == '+' || c == '-'
                                 : c == p;
    if (!fits) {
      return false;
    }
  }
  return true;
}

int number_at(std::string_view text, std::size_t at, std::size_t digits) {
  return std::stoi(std::string(text.substr(at, digits)));
}

int days_in(int year, int month) {
  if (month == 2) {
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0 ? 29 : 28;
  }
  return month == 4 || month == 6 || month == 9 || month == 11 ? 30 : 31;
}

/// Milliseconds since 1970.
std::optional<std::int64_t> read_slowly(std::string_view text) {
  if (!looks_like(text.substr(0, 19), "0000-00-00T00:00:00")) {
    return std::nullopt;
  }
  std::string_view rest = text.substr(19);
  std::string fraction;
  if (!rest.empty() && rest.front() == '.') {
    rest.remove_prefix(1);
    while (!rest.empty() && is_digit(rest.front())) {
      fraction += rest.front();
      rest.remove_prefix(1);
    }
    if (fraction.empty()) {
      return std::nullopt;
    }
  }
  std::int64_t ahead = 0;
  if (looks_like(rest, "+00:00")) {
    ahead = (number_at(rest, 1, 2) * 60 + number_at(rest, 4, 2)) * (rest.front() == '-' ? -60 : 60);
    if (number_at(rest, 1, 2) > 23 || number_at(rest, 4, 2) > 59) {
      return std::nullopt;
    }
  } else if (!looks_like(rest, "Z")) {
    return std::nullopt;
  }
  const int year = number_at(text, 0, 4);
  const int month = number_at(text, 5, 2);
  const int day = number_at(text, 8, 2);
  const int hour = number_at(text, 11, 2);
  const int minute = number_at(text, 14, 2);
  const int second = number_at(text, 17, 2);
  if (month < 1 || month > 12 || day < 1 || day > days_in(year, month) || hour > 23 || minute > 59 || second > 60) {
    return std::nullopt;
  }
  std::tm calendar{};
  calendar.tm_year = year - 1900;
  calendar.tm_mon = month - 1;
  calendar.tm_mday = day;
  calendar.tm_hour = hour;
  calendar.tm_min = minute;
  calendar.tm_sec = second == 60 ? 59 : second;
  fraction.append("000");
  return (static_cast<std::int64_t>(::timegm(&calendar)) - ahead) * 1000 + number_at(fraction, 0, 3);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text = sessionlock::fuzz::text_of(data, size);
  const std::optional<WallTime> time = parse_rfc3339(text);
  const auto expected = read_slowly(text);
  FUZZ_CHECK(time.has_value() == expected.has_value());
  if (time) {
    FUZZ_CHECK(time->time_since_epoch().count() == *expected);
    // An offset can lead out of the years that have four digits; what is written stays readable even then.
    const auto again = parse_rfc3339(format_rfc3339(*time));
    FUZZ_CHECK(again.has_value());
    FUZZ_CHECK(*again == *time || text.substr(0, 4) == "0000" || text.substr(0, 4) == "9999");
  }
  // Any clock at all can be written.
  const auto clock = static_cast<std::int64_t>(sessionlock::fuzz::Input(data, size).number(8));
  FUZZ_CHECK(parse_rfc3339(format_rfc3339(WallTime{std::chrono::milliseconds{clock}})).has_value());
  return 0;
}
