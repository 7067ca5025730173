#include <sessionlock/lock_manager.hpp>

#include <cstdlib>
#include <initializer_list>
#include <optional>
#include <string>

#include <doctest/doctest.h>

using namespace sessionlock;
using namespace std::chrono_literals;
using std::chrono::milliseconds;

namespace {

constexpr const char* k_timeout = "SESSIONLOCK_ACQUIRE_TIMEOUT_MS";
constexpr const char* k_stale = "SESSIONLOCK_STALE_MS";
constexpr const char* k_max_hold = "SESSIONLOCK_MAX_HOLD_MS";

/// A variable of the environment for the length of a scope.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    if (const char* before = std::getenv(name)) {
      before_ = before;
    }
    ::setenv(name, value.c_str(), 1);
  }
  ~Variable() {
    if (before_) {
      ::setenv(name_, before_->c_str(), 1);
    } else {
      ::unsetenv(name_);
    }
  }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_{};
};

void check_defaults(const AcquireOptions& options) {
  CHECK(options.timeout == 60s);
  CHECK(options.stale.stale_after == 30min);
  CHECK(options.max_hold == 5min);
}

}  // namespace

TEST_CASE("without variables the environment changes nothing") {
  for (const char* name : {k_timeout, k_stale, k_max_hold}) {
    ::unsetenv(name);
  }
  check_defaults(AcquireOptions::from_environment());
  check_defaults(AcquireOptions{});
}

TEST_CASE("each variable sets its own duration, in milliseconds") {
  {
    const Variable timeout(k_timeout, "1500");
    CHECK(AcquireOptions::from_environment().timeout == 1500ms);
    CHECK(AcquireOptions::from_environment().stale.stale_after == 30min);
    CHECK(AcquireOptions::from_environment().max_hold == 5min);
  }
  {
    const Variable stale(k_stale, "0007");
    CHECK(AcquireOptions::from_environment().stale.stale_after == 7ms);
    CHECK(AcquireOptions::from_environment().timeout == 60s);
  }
  {
    const Variable max_hold(k_max_hold, "0");
    CHECK(AcquireOptions::from_environment().max_hold == 0ms);
    CHECK(AcquireOptions::from_environment().stale.stale_after == 30min);
  }
  check_defaults(AcquireOptions::from_environment());
  const Variable longest(k_timeout, "9223372036854775807");
  CHECK(AcquireOptions::from_environment().timeout == milliseconds::max());
}

TEST_CASE("a variable that is not decimal digits alone is ignored") {
  for (const std::string value : {"", " ", "5s", "-1", "+1", " 5", "5 ", "1.5", "0x10", "1e3", "inf",
                                  "9223372036854775808", "99999999999999999999999", "\xd9\xa3"}) {
    CAPTURE(value);
    const Variable timeout(k_timeout, value);
    const Variable stale(k_stale, value);
    const Variable max_hold(k_max_hold, value);
    check_defaults(AcquireOptions::from_environment());
  }
}

TEST_CASE(
    "a hold limit for a wait is the wait and its grace, but no less than the minimum and no more than can be written") {
  CHECK(max_hold_for(10min) == 12min);
  CHECK(max_hold_for(1s) == 5min);
  CHECK(max_hold_for(10min, 30s) == 10min + 30s);
  CHECK(max_hold_for(0ms, 0ms, 0ms) == 0ms);
  CHECK(max_hold_for(1s, 0ms, 2s) == 2s);
  CHECK(max_hold_for(k_max_hold_max - 1ms, 2ms) == k_max_hold_max);
  CHECK(max_hold_for(k_max_hold_max) == k_max_hold_max);
  CHECK(max_hold_for(milliseconds::max()) == k_max_hold_max);
  CHECK(max_hold_for(1s, milliseconds::max()) == k_max_hold_max);
  CHECK(max_hold_for(milliseconds::max(), milliseconds::max(), milliseconds::max()) == k_max_hold_max);
  CHECK(max_hold_for(milliseconds::min(), milliseconds::min()) == 5min);
  CHECK(max_hold_for(1s, 1s, milliseconds::max()) == k_max_hold_max);
  CHECK(k_max_hold_max.count() == 2'147'000'000);
}

TEST_CASE("each kind of event has a word") {
  CHECK(to_string(EventKind::acquired) == "acquired");
  CHECK(to_string(EventKind::contended) == "contended");
  CHECK(to_string(EventKind::waiting) == "waiting");
  CHECK(to_string(EventKind::released) == "released");
  CHECK(to_string(EventKind::lost) == "lost");
  CHECK(to_string(EventKind::overrun) == "overrun");
  CHECK(to_string(EventKind::release_failed) == "release-failed");
  CHECK(to_string(EventKind::degraded) == "degraded");
  CHECK(to_string(static_cast<EventKind>(77)) == "?");
}
