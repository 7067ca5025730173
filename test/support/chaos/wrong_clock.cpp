#include "chaos/wrong_clock.hpp"

#include <atomic>
#include <ctime>

#include <sys/syscall.h>
#include <unistd.h>

#include "system/system.hpp"

namespace {

std::atomic<std::int64_t> g_error_seconds{0};

}  // namespace

extern "C" int clock_gettime(clockid_t clock, struct timespec* time) noexcept {
  const long result = ::syscall(SYS_clock_gettime, clock, time);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
    time->tv_sec += g_error_seconds.load(std::memory_order_relaxed);
  }
  return static_cast<int>(result);
}

namespace sessionlock::test::chaos {

void set_clock_error(std::chrono::seconds error) {
  g_error_seconds.store(error.count());
}

bool clock_is_wrong() {
  struct timespec now {};
  ::syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
  const auto seen = std::chrono::floor<std::chrono::seconds>(sys::wall_clock()).time_since_epoch().count();
  const auto error = seen - now.tv_sec - g_error_seconds.load();
  return g_error_seconds.load() != 0 && error >= -1 && error <= 1;
}

}  // namespace sessionlock::test::chaos
