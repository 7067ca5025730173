#include "hold/signal_cleanup.hpp"

#include <csignal>
#include <mutex>

#include "hold/exit_cleanup.hpp"

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

/// Whether a signal's default action ends the process (signal(7)). After any other the process would go on without its
/// locks.
bool is_deadly(int signal) {
  switch (signal) {
    case SIGCHLD:
    case SIGCONT:
    case SIGSTOP:
    case SIGTSTP:
    case SIGTTIN:
    case SIGTTOU:
    case SIGURG:
    case SIGWINCH:
      return false;
    default:
      return true;
  }
}

}  // namespace

void install_signal_cleanup(std::span<const int> signals) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  struct sigaction ours {};
  ours.sa_handler = clean_up_and_die;
  ours.sa_flags = SA_ONSTACK;  // runtimes with small stacks require it of every handler
  sigemptyset(&ours.sa_mask);
  for (const int signal : signals) {
    sigaddset(&ours.sa_mask, signal);
  }
  for (const int signal : signals) {
    struct sigaction present {};
    if (is_deadly(signal) && ::sigaction(signal, nullptr, &present) == 0 && is_default(present)) {
      ::sigaction(signal, &ours, nullptr);
    }
  }
}

}  // namespace sessionlock
