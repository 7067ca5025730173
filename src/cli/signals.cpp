#include "cli/signals.hpp"

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "cli/exit_status.hpp"

namespace sessionlock::cli {
namespace {

enum class Origin : int { none, kernel, process };

// Written by the handler, hence not members: a handler gets nothing but a number.
std::array<std::atomic<Origin>, NSIG> g_caught{};
std::atomic<int> g_wake_fd{-1};
static_assert(std::atomic<Origin>::is_always_lock_free, "a signal handler must not lock");

// One byte; a full pipe has been readable for long.
void poke(int fd) noexcept {
  const int saved = errno;
  const char byte = 0;
  static_cast<void>(!::write(fd, &byte, 1));
  errno = saved;
}

extern "C" void on_signal(int number, siginfo_t* info, void* /*context*/) {
  // sigaction(2): a code above zero says that the kernel sent it.
  const Origin origin = info != nullptr && info->si_code > 0 ? Origin::kernel : Origin::process;
  std::atomic<Origin>& slot = g_caught[static_cast<std::size_t>(number)];
  if (origin == Origin::process) {
    slot.store(origin);
  } else {
    // Of two of one number the one that must be forwarded counts.
    Origin none = Origin::none;
    slot.compare_exchange_strong(none, origin);
  }
  // The flag first: `take` drains the pipe and looks at the flags afterwards, so it cannot miss one.
  poke(g_wake_fd.load());
}

[[noreturn]] void fail_call(const char* call) {
  const int number = errno;
  throw std::system_error(number, std::system_category(), call);
}

}  // namespace

OwnedFd::OwnedFd(int fd) : fd_(fd) {
  if (fd > STDERR_FILENO) {
    return;
  }
  fd_ = ::fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
  const int number = errno;
  ::close(fd);
  if (fd_ < 0) {
    throw std::system_error(number, std::system_category(), "fcntl");
  }
}

OwnedFd::OwnedFd(OwnedFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

OwnedFd& OwnedFd::operator=(OwnedFd&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

OwnedFd::~OwnedFd() {
  if (fd_ >= 0) {
    ::close(fd_);
  }
}

WakePipe::WakePipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0) {
    fail_call("pipe2");
  }
  read_ = OwnedFd{ends[0]};
  write_ = OwnedFd{ends[1]};
}

void WakePipe::wake() const noexcept {
  poke(write_.get());
}

void WakePipe::drain() const noexcept {
  std::array<char, 256> bytes{};
  while (::read(read_.get(), bytes.data(), bytes.size()) > 0) {
  }
}

SignalCatcher::SignalCatcher(std::span<const int> signals) {
  for (std::atomic<Origin>& slot : g_caught) {
    slot.store(Origin::none);
  }
  g_wake_fd.store(pipe_.write_fd());
  for (const int signal : signals) {
    struct sigaction before {};
    if (::sigaction(signal, nullptr, &before) != 0) {
      fail_call("sigaction");
    }
    if (before.sa_handler != SIG_IGN) {
      replace(signal);
    }
  }
}

SignalCatcher::~SignalCatcher() {
  for (const Replaced& replaced : replaced_) {
    ::sigaction(replaced.signal, &replaced.before, nullptr);
  }
  g_wake_fd.store(-1);
}

void SignalCatcher::replace(int signal) {
  struct sigaction action {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  ::sigfillset(&action.sa_mask);
  Replaced replaced{signal, {}};
  if (::sigaction(signal, &action, &replaced.before) != 0) {
    fail_call("sigaction");
  }
  replaced_.push_back(replaced);
}

void SignalCatcher::add(int signal) {
  replace(signal);
}

std::vector<Caught> SignalCatcher::take() {
  pipe_.drain();
  std::vector<Caught> caught;
  for (int number = 1; number < NSIG; ++number) {
    const Origin origin = g_caught[static_cast<std::size_t>(number)].exchange(Origin::none);
    if (origin != Origin::none) {
      caught.push_back({number, origin == Origin::kernel});
    }
  }
  return caught;
}

Interruption::Interruption(const SignalCatcher& signals)
    : thread_([this, wake_fd = signals.wake_fd()] {
        wait_readable(std::array{wake_fd, end_.fd()});
        source_.request_stop();
      }) {}

Interruption::~Interruption() {
  end_.wake();
  thread_.join();
}

void leave_reaping_to_the_kernel() {
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  action.sa_flags = SA_NOCLDWAIT;
  if (::sigaction(SIGCHLD, &action, nullptr) != 0) {
    fail_call("sigaction");
  }
}

void wait_readable(std::span<const int> fds) {
  std::vector<pollfd> polled;
  polled.reserve(fds.size());
  for (const int fd : fds) {
    polled.push_back({fd, POLLIN, 0});
  }
  while (::poll(polled.data(), static_cast<nfds_t>(polled.size()), -1) < 0) {
    if (errno != EINTR && errno != EAGAIN) {
      fail_call("poll");
    }
  }
}

bool is_readable(int fd) {
  pollfd polled{fd, POLLIN, 0};
  return ::poll(&polled, 1, 0) == 1;
}

void die_of(int signal) {
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  ::sigaction(signal, &action, nullptr);
  sigset_t only;
  ::sigemptyset(&only);
  ::sigaddset(&only, signal);
  ::pthread_sigmask(SIG_UNBLOCK, &only, nullptr);
  ::raise(signal);
  ::_exit(k_signal_base + signal);
}

}  // namespace sessionlock::cli
