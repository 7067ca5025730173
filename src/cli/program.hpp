#pragma once

/// \file
/// The program that a command runs: attended while it lives, so that what is meant for it reaches it.
///
/// Signals. Whoever signals the wrapper means the program, so what asks a process to end is forwarded. Two things are
/// left alone. What a key at the terminal sends (Ctrl-C, Ctrl-\) the kernel gives to the whole foreground process
/// group, of which the program is a member as well: forwarding would deliver it twice. And job control (Ctrl-Z, `fg`, a
/// resized window) works on the group by itself: both stop, both go on.

#include <string>
#include <system_error>
#include <vector>

#include <sys/types.h>

#include "cli/signals.hpp"

namespace sessionlock::cli {

/// As the exec functions want it. Lifetime: that of the strings.
[[nodiscard]] std::vector<char*> pointers_to(std::vector<std::string>& strings);

/// Complains about a program that cannot be run. Returns the exit status that a shell would.
int program_failure(const std::error_code& code, const std::string& program);

/// Waits for a child of this process to end, and passes signals on meanwhile. `signals` catches SIGCHLD as well.
/// Returns its exit status as a shell would tell it.
int attend(pid_t program, SignalCatcher& signals);

/// The first signal that was caught and asks this process to end, or 0. Takes what was caught.
[[nodiscard]] int take_ending_signal(SignalCatcher& signals);

/// A program that is started, but held back until it is let go. Until then its process only waits, and it ends with
/// this one: who claims something in its name and is killed before it ran leaves a claim of a dead process.
class HeldProgram {
 public:
  /// Throws `std::system_error` if there can be no child.
  explicit HeldProgram(std::vector<std::string> command);
  /// As `end`.
  ~HeldProgram();
  HeldProgram(const HeldProgram&) = delete;
  HeldProgram& operator=(const HeldProgram&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  /// Lets it become the program. Afterwards it is the caller's to attend to. Returns what keeps it from being executed;
  /// there is no child then.
  [[nodiscard]] std::error_code let_go();
  /// Ends a child that was not let go; returns when it is gone.
  void end() noexcept;

 private:
  pid_t pid_{-1};
  OwnedFd line_{};
  bool is_held_{true};
};

}  // namespace sessionlock::cli
