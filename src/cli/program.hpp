#pragma once

/// \file
/// The program that a command runs, and the signals that are forwarded to it while it lives.
///
/// A signal sent to the wrapper is meant for the program, so what asks a process to end is forwarded. Two things are
/// left alone. What a key at the terminal sends (Ctrl-C, Ctrl-\) the kernel gives to the whole foreground process
/// group, of which the program is a member as well: forwarding would deliver it twice. And job control (Ctrl-Z, `fg`, a
/// resized window) works on the group by itself: both stop, both go on.

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <sys/types.h>

#include <sessionlock/session_lock.hpp>

#include "cli/signals.hpp"

namespace sessionlock::cli {

/// As the exec functions want it. Lifetime: that of the strings.
[[nodiscard]] std::vector<char*> pointers_to(std::vector<std::string>& strings);

/// The variable that gives a program the record of the dead owner whose lock was taken over for it: one line of JSON,
/// with the members of a lock file. It is not set where none was.
inline constexpr std::string_view k_reclaimed_from = "SESSIONLOCK_RECLAIMED_FROM";
[[nodiscard]] std::optional<std::string> reclaimed_from_value(const SessionLock& lock);

/// A variable, and its value in the environment of a program; none: it is not to be set there.
using Variable = std::pair<std::string_view, std::optional<std::string>>;
/// This process's environment with these variables instead of its own of the same names.
[[nodiscard]] std::vector<std::string> environment_with(const std::vector<Variable>& variables);

/// Prints why a program cannot be run, and which limit may be the reason. Returns the exit status that a shell would.
int program_failure(const std::error_code& code, const std::string& program);

/// Runs an action that starts the program. A `std::system_error` thrown before the program runs (there can be no
/// thread, no pipe, no child) is reported as `program_failure`.
int reporting_start_failure(const std::vector<std::string>& program, const std::function<int()>& action);

/// Waits for a child of this process to end. Meanwhile forwards signals, and reaps other children that end, such as the
/// orphans that pid 1 of a container gets. `signals` must catch SIGCHLD as well.
/// Returns the child's exit status as a shell reports it.
int wait_forwarding_signals(pid_t program, SignalCatcher& signals);

/// The first signal that was caught and asks this process to end, or 0. Takes what was caught.
[[nodiscard]] int take_ending_signal(SignalCatcher& signals);

/// A child process that waits, and becomes the program when it is started. Until then it ends with its parent: a parent
/// that claims something in the child's name and is killed before it starts the child leaves a claim of a dead process.
class SuspendedChild {
 public:
  /// Throws `std::system_error` if there can be no child.
  explicit SuspendedChild(std::vector<std::string> command);
  /// As `end`.
  ~SuspendedChild();
  SuspendedChild(const SuspendedChild&) = delete;
  SuspendedChild& operator=(const SuspendedChild&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  /// Makes it execute the program, which inherits `shared`, a descriptor of this process, unless it is -1, and nothing
  /// else. Returns why the program cannot be executed; the child has ended then. Otherwise the caller waits for it.
  [[nodiscard]] std::error_code start(int shared);
  /// Kills a child that was not started; returns when it is gone.
  void end() noexcept;

 private:
  pid_t pid_{-1};
  OwnedFd line_{};
  bool is_held_{true};
};

}  // namespace sessionlock::cli
