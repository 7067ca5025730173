#include <sessionlock/process_signal.hpp>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <optional>
#include <string>
#include <utility>

#include <poll.h>
#include <unistd.h>

#include "system/deadline.hpp"
#include "system/system.hpp"

namespace sessionlock {
namespace {

using Clock = std::chrono::steady_clock;

/// For the kernel to carry out a SIGKILL; only a process in uninterruptible sleep takes longer.
constexpr std::chrono::seconds k_kill_patience{5};
/// Between looks where no pidfd tells of the end.
constexpr std::chrono::milliseconds k_recheck{10};

tl::unexpected<Error> failure(std::error_code code, std::string operation, pid_t pid) {
  return tl::unexpected(Error{code, std::move(operation), {}, {}, "pid " + std::to_string(pid)});
}

/// INVARIANT: none of these is ever passed to a system call that signals. 0 and negative numbers mean process groups to
/// kill(2); 1 is the system, or all of the container; a signal to ourselves or to the leader of our group, a shell's
/// job or a supervisor, was not what anybody who read a file meant.
bool is_off_limits(pid_t pid) {
  return pid <= 1 || pid == ::getpid() || pid == ::getpgrp();
}

/// One process, pinned: as long as this lives, the pidfd means the process that had the pid when it was opened, whoever
/// has the pid later.
class Target {
 public:
  explicit Target(const ProcessIdentity& identity) : identity_(identity) {}

  /// Opens it. None: go on.
  Result<std::optional<SignalOutcome>> pin() {
    auto opened = sys::pidfd_open(identity_.pid);
    if (opened.ok()) {
      pidfd_ = std::move(opened.fd);
      return std::nullopt;
    }
    // pidfd_open(2): EINVAL, or ENOENT since Linux 6.9, is the id of a thread, which is no process; ENOSYS a kernel
    // before 5.3; EPERM is how seccomp filters of older containers refuse calls they do not know.
    if (opened.error == ENOSYS || opened.error == EPERM) {
      return std::nullopt;
    }
    if (opened.error == ESRCH || opened.error == EINVAL || opened.error == ENOENT) {
      return SignalOutcome::gone;
    }
    return failure(opened.code(), "pidfd_open", identity_.pid);
  }

  /// Whether the target is the recorded process. None: it is.
  ///
  ///   1. B, recorded, ends; C gets its pid.
  ///   2. A (we) opened the pidfd before 1 or after: it pins B or C.
  ///   3. A reads the start time of the pid: B's or C's.
  ///   4. A asks the pidfd whether its process has ended. If not, it has had the pid all the time since 2, and what was
  ///      read in 3 is its own.
  Result<std::optional<SignalOutcome>> verify(Verification verification) const {
    const auto observed = identify(identity_.pid);
    if (!observed && observed.error().code != std::errc::no_such_process) {
      return tl::unexpected(observed.error());
    }
    const auto ended = pidfd_ ? has_ended_by(Clock::time_point{}) : Result<bool>(false);
    if (!ended) {
      return tl::unexpected(ended.error());
    }
    if (!observed || *ended) {
      return SignalOutcome::gone;
    }
    switch (same_process(identity_, *observed)) {
      case Match::same:
        return std::nullopt;
      case Match::different:
        return SignalOutcome::recycled;
      case Match::unknown:
        break;
    }
    return verification == Verification::unverified ? std::nullopt
                                                    : std::optional<SignalOutcome>(SignalOutcome::unverifiable);
  }

  Result<std::optional<SignalOutcome>> send(int signal) {
    if (pidfd_) {
      const auto sent = sys::pidfd_send_signal(pidfd_.get(), signal);
      if (sent.error != ENOSYS) {
        return judge(sent);
      }
      pidfd_.reset();  // Linux 5.1 has the one call without the other; the other way round is a seccomp filter
    }
    return judge(sys::kill(identity_.pid, signal));
  }

  /// Waits until the process has ended; false if it has not by then.
  Result<bool> has_ended_by(Clock::time_point until) const {
    if (pidfd_) {
      struct ::pollfd ended {
        pidfd_.get(), POLLIN, 0
      };
      const auto ready = sys::poll(&ended, 1, until);
      return ready.ok() ? Result<bool>(ready.value > 0) : failure(ready.code(), "poll", identity_.pid);
    }
    while (true) {
      const auto observed = identify(identity_.pid);
      if (!observed || same_process(identity_, *observed) == Match::different) {
        return true;
      }
      if (Clock::now() >= until) {
        return false;
      }
      (void)sys::poll(nullptr, 0, std::min(until, Clock::now() + k_recheck));
    }
  }

  [[nodiscard]] bool is_pinned() const { return static_cast<bool>(pidfd_); }

 private:
  [[nodiscard]] Result<std::optional<SignalOutcome>> judge(const sys::Outcome& sent) const {
    if (sent.ok()) {
      return std::nullopt;
    }
    return sent.error == ESRCH ? Result<std::optional<SignalOutcome>>(SignalOutcome::gone)
                               : failure(sent.code(), "signal", identity_.pid);
  }

  const ProcessIdentity& identity_;
  sys::Fd pidfd_;
};

/// Pins, verifies and signals. None: it was sent.
Result<std::optional<SignalOutcome>> signal_target(Target& target, int signal, Verification verification) {
  auto done = target.pin();
  if (done && !*done) {
    done = target.verify(verification);
  }
  if (done && !*done) {
    done = target.send(signal);
  }
  return done;
}

}  // namespace

std::string_view to_string(SignalOutcome outcome) {
  switch (outcome) {
    case SignalOutcome::signalled:
      return "signalled";
    case SignalOutcome::gone:
      return "gone";
    case SignalOutcome::recycled:
      return "recycled";
    case SignalOutcome::unverifiable:
      return "unverifiable";
    case SignalOutcome::refused:
      return "refused";
  }
  return "?";
}

Result<SignalReport> signal_process(const ProcessIdentity& identity, int signal, Verification verification) {
  if (signal < 1 || signal > SIGRTMAX) {
    return tl::unexpected(
        Error{Errc::invalid_argument, "signal", {}, {}, std::to_string(signal) + " is no signal's number"});
  }
  if (is_off_limits(identity.pid)) {
    return SignalReport{SignalOutcome::refused, false};
  }
  Target target(identity);
  const auto done = signal_target(target, signal, verification);
  if (!done) {
    return tl::unexpected(done.error());
  }
  return SignalReport{done->value_or(SignalOutcome::signalled), target.is_pinned()};
}

Result<SignalReport> stop_process(const ProcessIdentity& identity, std::chrono::milliseconds grace,
                                  Verification verification) {
  if (is_off_limits(identity.pid)) {
    return SignalReport{SignalOutcome::refused, false};
  }
  Target target(identity);
  const auto asked = signal_target(target, SIGTERM, verification);
  if (!asked) {
    return tl::unexpected(asked.error());
  }
  if (*asked) {
    return SignalReport{**asked, target.is_pinned()};
  }
  auto ended = target.has_ended_by(Deadline(grace).end());
  if (ended && !*ended) {
    // A second look, because without a pidfd the pid may be another's by now; and whoever could not be verified gets no
    // SIGKILL, whatever the caller allowed.
    const auto verified = target.verify(Verification::required);
    if (!verified) {
      return tl::unexpected(verified.error());
    }
    if (*verified == SignalOutcome::unverifiable) {
      return failure(Errc::timed_out, "stop: not killed, because it could not be verified", identity.pid);
    }
    if (!*verified) {
      if (const auto killed = target.send(SIGKILL); !killed) {
        return tl::unexpected(killed.error());
      }
      ended = target.has_ended_by(Clock::now() + k_kill_patience);
    } else {
      ended = true;
    }
  }
  if (!ended) {
    return tl::unexpected(ended.error());
  }
  return *ended ? Result<SignalReport>(SignalReport{SignalOutcome::signalled, target.is_pinned()})
                : failure(Errc::timed_out, "stop", identity.pid);
}

}  // namespace sessionlock
