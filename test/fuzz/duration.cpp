// Durations as the command reads them.

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "support/target.hpp"
#include "text/duration_text.hpp"

using sessionlock::parse_duration;
using std::chrono::milliseconds;

namespace {

std::optional<milliseconds> read_slowly(std::string_view text) {
  if (text == "inf") {
    return milliseconds::max();
  }
  sessionlock::fuzz::Wide count = 0;
  const auto unit_at = std::min(text.find_first_not_of("0123456789"), text.size());
  const std::string_view unit = text.substr(unit_at);
  const int factor = unit == "ms" ? 1 : unit == "s" ? 1000 : unit == "m" ? 60000 : unit == "h" ? 3600000 : 0;
  for (const char c : text.substr(0, unit_at)) {
    count = count * 10 + (c - '0');
    if (count > UINT64_MAX) {
      return std::nullopt;
    }
  }
  if (unit.empty() && unit_at != 0 && count == 0) {
    return milliseconds{0};
  }
  count *= factor;
  if (unit_at == 0 || factor == 0 || count > INT64_MAX) {
    return std::nullopt;
  }
  return milliseconds{static_cast<std::int64_t>(count)};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text = sessionlock::fuzz::text_of(data, size);
  const std::optional<milliseconds> duration = parse_duration(text);
  FUZZ_CHECK(duration == read_slowly(text));
  if (duration) {
    FUZZ_CHECK(parse_duration(sessionlock::format_limit(*duration)) == duration);
    FUZZ_CHECK(!sessionlock::format_age(*duration).empty());
  }
  // Any number can be written as a limit, which is read back as what it was, or as none where it is below zero.
  const milliseconds any{static_cast<std::int64_t>(sessionlock::fuzz::Input(data, size).number(8))};
  FUZZ_CHECK(parse_duration(sessionlock::format_limit(any)) == std::max(any, milliseconds{0}));
  FUZZ_CHECK(!sessionlock::format_age(any).empty());
  return 0;
}
