#include "hold/signal_cleanup.hpp"

#include <csignal>

#include <unistd.h>

#include "hold/exit_cleanup.hpp"

namespace sessionlock {
namespace {

constexpr int k_exit_status_of_signals = 128;  // plus the number, as shells report it

/// Async-signal-safe throughout: clean_up_holds, sigaction(2), raise(3), pthread_sigmask(3), _exit(2).
void clean_up_and_die(int signal) {
  clean_up_holds();
  struct sigaction by_default {};
  by_default.sa_handler = SIG_DFL;
  ::sigaction(signal, &by_default, nullptr);
  sigset_t only_this;
  sigemptyset(&only_this);
  sigaddset(&only_this, signal);
  ::raise(signal);  // is blocked while this handler runs
  ::pthread_sigmask(SIG_UNBLOCK, &only_this, nullptr);
  // Pid 1 of a PID namespace outlives any default action (pid_namespaces(7)). It must not go on without its locks.
  ::_exit(k_exit_status_of_signals + signal);
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
  // Under no mutex, which a child could inherit locked: of threads that are here at the same moment each installs the
  // same handler.
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
