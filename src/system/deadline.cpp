#include "system/deadline.hpp"

#include <algorithm>
#include <thread>

#include "system/cancellation.hpp"

namespace sessionlock {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr microseconds k_brief_pause_min{50};
constexpr microseconds k_brief_pause_max{5000};
constexpr int k_brief_doublings_max = 7;

}  // namespace

Deadline::Deadline(milliseconds timeout) : timeout_(timeout), start_(Clock::now()), end_(Clock::time_point::max()) {
  if (timeout < std::chrono::floor<milliseconds>(Clock::time_point::max() - start_)) {
    end_ = start_ + std::max(timeout, milliseconds{0});
  }
}

void sleep_until(Deadline::Clock::time_point time) {
  const sys::CancellationDisabled disabled;
  std::this_thread::sleep_until(time);
}

void pause_briefly(int attempt, std::chrono::steady_clock::time_point end) {
  const auto pause = std::min(k_brief_pause_min * (1 << std::min(attempt, k_brief_doublings_max)), k_brief_pause_max);
  sleep_until(std::min(end, std::chrono::steady_clock::now() + pause));
}

}  // namespace sessionlock
