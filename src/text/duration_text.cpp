#include "text/duration_text.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <system_error>

#include <fmt/core.h>

namespace sessionlock {
namespace {

using std::chrono::milliseconds;

struct Unit {
  std::string_view name;
  std::int64_t milliseconds;
};
// From the largest down, because ages are told from their largest unit on.
constexpr std::array k_units{Unit{"d", 86'400'000}, Unit{"h", 3'600'000}, Unit{"m", 60'000}, Unit{"s", 1000},
                             Unit{"ms", 1}};
constexpr std::string_view k_no_limit = "inf";

}  // namespace

std::string format_age(milliseconds age) {
  const std::int64_t count = std::max<std::int64_t>(age.count(), 0);
  std::size_t unit = 0;
  while (count < k_units[unit].milliseconds && unit + 1 < k_units.size()) {
    ++unit;
  }
  const std::int64_t whole = count / k_units[unit].milliseconds;
  std::string text = fmt::format("{}{}", whole, k_units[unit].name);
  // Milliseconds after seconds would be noise.
  if (unit + 2 < k_units.size()) {
    const std::int64_t rest = count % k_units[unit].milliseconds / k_units[unit + 1].milliseconds;
    if (rest > 0) {
      text += fmt::format("{}{}", rest, k_units[unit + 1].name);
    }
  }
  return text;
}

std::string format_limit(milliseconds limit) {
  if (limit == milliseconds::max()) {
    return std::string{k_no_limit};
  }
  const std::int64_t count = std::max<std::int64_t>(limit.count(), 0);
  for (const Unit& unit : k_units) {
    // Days are for reading only.
    if (unit.name != "d" && count != 0 && count % unit.milliseconds == 0) {
      return fmt::format("{}{}", count / unit.milliseconds, unit.name);
    }
  }
  return "0ms";
}

std::optional<milliseconds> parse_duration(std::string_view text) {
  if (text == k_no_limit) {
    return milliseconds::max();
  }
  std::uint64_t count{};
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, count);
  if (error != std::errc{}) {
    return std::nullopt;
  }
  const std::string_view name{rest, static_cast<std::size_t>(end - rest)};
  if (name.empty()) {
    return count == 0 ? std::optional(milliseconds{0}) : std::nullopt;
  }
  for (const Unit& unit : k_units) {
    if (unit.name == "d" || unit.name != name) {
      continue;
    }
    if (count > static_cast<std::uint64_t>(milliseconds::max().count() / unit.milliseconds)) {
      return std::nullopt;
    }
    return milliseconds{static_cast<std::int64_t>(count) * unit.milliseconds};
  }
  return std::nullopt;
}

}  // namespace sessionlock
