#include "waiter.hpp"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace sessionlock {
namespace {

constexpr std::chrono::microseconds k_pause_min{1000};
constexpr std::chrono::microseconds k_pause_max{10'000};
constexpr std::chrono::microseconds k_brief_pause_min{50};
constexpr std::chrono::microseconds k_brief_pause_max{5000};
constexpr int k_brief_doublings_max = 7;

}  // namespace

Deadline::Deadline(std::chrono::milliseconds timeout)
    : timeout_(timeout), start_(Clock::now()), end_(Clock::time_point::max()) {
  if (timeout < std::chrono::floor<std::chrono::milliseconds>(Clock::time_point::max() - start_)) {
    end_ = start_ + std::max(timeout, std::chrono::milliseconds{0});
  }
}

Waiter::Waiter(const Deadline& deadline, std::stop_token stop)
    : deadline_(deadline),
      stop_(std::move(stop)),
      pause_(k_pause_min),
      random_(static_cast<std::minstd_rand::result_type>(
          std::hash<std::thread::id>{}(std::this_thread::get_id()) ^
          static_cast<std::size_t>(Deadline::Clock::now().time_since_epoch().count()))) {}

WakeUp Waiter::wait() {
  if (stop_.stop_requested()) {
    return WakeUp::cancelled;
  }
  if (deadline_.is_single_try() || deadline_.has_passed()) {
    return WakeUp::deadline;
  }
  // Half fixed, half at random: several waiters must not look at the same moment again and again.
  std::uniform_int_distribution<std::chrono::microseconds::rep> jitter(pause_.count() / 2, pause_.count());
  const auto until = std::min(deadline_.end(), Deadline::Clock::now() + std::chrono::microseconds{jitter(random_)});
  pause_ = std::min(pause_ * 2, k_pause_max);

  std::mutex mutex;
  std::condition_variable_any never;
  std::unique_lock lock(mutex);
  (void)never.wait_until(lock, stop_, until, [] { return false; });
  return stop_.stop_requested() ? WakeUp::cancelled : WakeUp::look_again;
}

void Waiter::reset() noexcept {
  pause_ = k_pause_min;
}

void pause_briefly(int attempt, std::chrono::steady_clock::time_point end) {
  const auto pause = std::min(k_brief_pause_min * (1 << std::min(attempt, k_brief_doublings_max)), k_brief_pause_max);
  std::this_thread::sleep_until(std::min(end, std::chrono::steady_clock::now() + pause));
}

}  // namespace sessionlock
