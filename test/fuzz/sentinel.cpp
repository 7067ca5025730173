// A sentinel's file: whether it stands, whatever it says and whatever the clocks say.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "claims/sentinel.hpp"
#include "support/target.hpp"

using sessionlock::parse_sentinel;
using sessionlock::sentinel_is_active;
using sessionlock::WallTime;
using sessionlock::fuzz::Wide;
using std::chrono::milliseconds;

namespace {

std::optional<std::int64_t> read_slowly(std::string_view text) {
  if (!text.empty() && text.back() == '\n') {
    text.remove_suffix(1);
  }
  if (text.empty() || text.find_first_not_of("0123456789") != std::string_view::npos) {
    return std::nullopt;
  }
  Wide value = 0;
  for (const char c : text) {
    value = value * 10 + (c - '0');
    if (value > INT64_MAX) {
      return std::nullopt;
    }
  }
  return static_cast<std::int64_t>(value);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  sessionlock::fuzz::Input input(data, size);
  const WallTime modified{milliseconds{static_cast<std::int64_t>(input.number(8))}};
  const WallTime now{milliseconds{static_cast<std::int64_t>(input.number(8))}};
  const std::string_view text = input.rest();
  const auto expiry = parse_sentinel(text);
  const auto expected = read_slowly(text);
  FUZZ_CHECK(expiry.has_value() == expected.has_value());
  FUZZ_CHECK(!expiry || expiry->time_since_epoch().count() == *expected);
  const bool active = sentinel_is_active(text, modified, now);
  // Corrupt or expired is as if absent.
  FUZZ_CHECK(!active || (expiry && now < *expiry));
  // A clock that was set back does not let it stand for ever.
  if (active) {
    const Wide meant = Wide{expiry->time_since_epoch().count()} - modified.time_since_epoch().count();
    const Wide left = Wide{expiry->time_since_epoch().count()} - now.time_since_epoch().count();
    FUZZ_CHECK(left <= 2 * meant);
  }
  return 0;
}
