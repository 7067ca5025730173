#include <sessionlock/options.hpp>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string_view>
#include <system_error>

namespace sessionlock {
namespace {

using std::chrono::milliseconds;

/// Decimal digits and nothing else.
std::optional<std::int64_t> parse_digits(std::string_view text) {
  std::int64_t value = 0;
  const bool digits = !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  return digits && parsed.ec == std::errc{} ? std::optional(value) : std::nullopt;
}

void read_environment(const char* name, milliseconds& duration) {
  const char* text = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): as any program that reads its environment
  if (const auto value = text != nullptr ? parse_digits(text) : std::nullopt) {
    duration = milliseconds{*value};
  }
}

}  // namespace

AcquireOptions AcquireOptions::from_environment() {
  AcquireOptions options;
  read_environment("SESSIONLOCK_ACQUIRE_TIMEOUT_MS", options.timeout);
  read_environment("SESSIONLOCK_STALE_MS", options.stale.stale_after);
  read_environment("SESSIONLOCK_MAX_HOLD_MS", options.max_hold);
  return options;
}

milliseconds max_hold_for(milliseconds timeout, milliseconds grace, milliseconds min) {
  if (timeout >= k_max_hold_max || grace >= k_max_hold_max) {
    return k_max_hold_max;
  }
  const milliseconds lowest{-k_max_hold_max};  // keeps the sum from overflowing
  return std::min(std::max(min, std::max(timeout, lowest) + std::max(grace, lowest)), k_max_hold_max);
}

}  // namespace sessionlock
