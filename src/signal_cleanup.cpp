#include "signal_cleanup.hpp"

#include <csignal>
#include <mutex>

#include "hold_table.hpp"

namespace sessionlock {
namespace {

/// Async-signal-safe throughout: clean_up_holds, sigaction(2), raise(3).
void clean_up_and_die(int signal) {
  clean_up_holds();
  struct sigaction by_default {};
  by_default.sa_handler = SIG_DFL;
  ::sigaction(signal, &by_default, nullptr);
  ::raise(signal);  // is blocked while this handler runs, and ends the process when it returns
}

bool is_default(const struct sigaction& action) {
  return (action.sa_flags & SA_SIGINFO) == 0 && action.sa_handler == SIG_DFL;
}

}  // namespace

void install_signal_cleanup(std::span<const int> signals) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  struct sigaction ours {};
  ours.sa_handler = clean_up_and_die;
  sigemptyset(&ours.sa_mask);
  for (const int signal : signals) {
    sigaddset(&ours.sa_mask, signal);
  }
  for (const int signal : signals) {
    struct sigaction present {};
    if (::sigaction(signal, nullptr, &present) == 0 && is_default(present)) {
      ::sigaction(signal, &ours, nullptr);
    }
  }
}

}  // namespace sessionlock
