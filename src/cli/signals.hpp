#pragma once

/// \file
/// Signals as something a loop can wait for, so that a lock is released and a program notified before this process
/// ends.

#include <array>
#include <csignal>
#include <span>
#include <stop_token>
#include <thread>
#include <vector>

namespace sessionlock::cli {

/// The signals that other processes send to end a process, or to notify it, and that end it by default.
inline constexpr std::array k_ending_signals{SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGABRT, SIGUSR1, SIGUSR2};

/// An open descriptor, close-on-exec and numbered 3 or higher: a program that was started with its standard error
/// closed must not find our messages' place taken by something of ours.
class OwnedFd {
 public:
  OwnedFd() = default;
  /// Takes over `fd`, and moves it if its number is too low. Throws `std::system_error`.
  explicit OwnedFd(int fd);
  OwnedFd(OwnedFd&& other) noexcept;
  OwnedFd& operator=(OwnedFd&& other) noexcept;
  ~OwnedFd();
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_{-1};
};

/// A descriptor that `wake` makes readable, until `drain`. Throws `std::system_error` if no pipe can be made.
class WakePipe {
 public:
  WakePipe();
  [[nodiscard]] int fd() const { return read_.get(); }
  [[nodiscard]] int write_fd() const { return write_.get(); }
  void wake() const noexcept;
  void drain() const noexcept;

 private:
  OwnedFd read_;
  OwnedFd write_;
};

/// A signal that was caught.
struct Caught {
  int number{};
  /// The kernel itself sent it, as it does for a key pressed at the terminal; otherwise some process did.
  bool from_kernel{};
};

/// Catches signals as long as it lives. Signals that were ignored before stay ignored, because the process that started
/// this one chose so (nohup(1), a shell's background job). Like the kernel, it keeps at most one of each number. At
/// most one object at a time; one thread takes what was caught.
class SignalCatcher {
 public:
  explicit SignalCatcher(std::span<const int> signals);
  /// Restores what was there before.
  ~SignalCatcher();
  SignalCatcher(const SignalCatcher&) = delete;
  SignalCatcher& operator=(const SignalCatcher&) = delete;

  /// Readable while something may have been caught that was not taken yet.
  [[nodiscard]] int wake_fd() const { return pipe_.fd(); }
  /// What was caught since the last call.
  [[nodiscard]] std::vector<Caught> take();
  /// Catches one more, whether it was ignored or not.
  void add(int signal);

 private:
  struct Replaced {
    int signal;
    struct sigaction before;
  };
  void replace(int signal);
  WakePipe pipe_;
  std::vector<Replaced> replaced_;
};

/// Turns the first caught signal into a stop request, for calls that take a stop token. Takes nothing from the catcher.
class Interruption {
 public:
  explicit Interruption(const SignalCatcher& signals);
  ~Interruption();
  Interruption(const Interruption&) = delete;
  Interruption& operator=(const Interruption&) = delete;
  [[nodiscard]] std::stop_token token() const { return source_.get_token(); }

 private:
  WakePipe end_;
  std::stop_source source_;
  std::thread thread_;
};

/// Lets the kernel reap the children of a process that does not wait for any. For pid 1 of a PID namespace, which gets
/// the orphans of all others. Ends when SIGCHLD is caught; a program that is executed does not inherit it.
void leave_reaping_to_the_kernel();

/// Waits until one of the descriptors is readable, closed or broken. Repeats after a signal.
void wait_readable(std::span<const int> fds);
/// Whether reading it would not block now.
[[nodiscard]] bool is_readable(int fd);

/// Ends this process by the signal's default action, so that its parent sees which signal ended it.
[[noreturn]] void die_of(int signal);

}  // namespace sessionlock::cli
