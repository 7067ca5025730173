#pragma once

/// \file
/// Signalling the process that was meant, and no other.

#include <chrono>
#include <string_view>

#include <sys/types.h>

#include <sessionlock/error.hpp>
#include <sessionlock/export.hpp>
#include <sessionlock/process_identity.hpp>

namespace sessionlock {

enum class SignalOutcome {
  signalled,
  gone,          ///< No such process.
  recycled,      ///< The pid belongs to another process now.
  unverifiable,  ///< The incarnations cannot be compared, and the caller did not ask for an unverified signal.
  refused        ///< Never: pid 0, negative, 1, this process, or the leader of its own process group.
};
/// "signalled", "gone", … Lifetime: static storage.
[[nodiscard]] SESSIONLOCK_API std::string_view to_string(SignalOutcome outcome);

/// Whether a process that cannot be verified may be signalled.
enum class Verification { required, unverified };

struct SignalReport {
  SignalOutcome outcome{SignalOutcome::gone};
  /// The signal went through a pidfd: no other process can have got it. Without (a kernel before 5.1 or 5.3) the pid
  /// could have been given out again between the check and the signal.
  bool pinned{false};
};

/// Sends a signal to exactly this incarnation of a process: opens a pidfd, verifies the identity of the process that
/// the pidfd pins, and signals through it. Errors: EPERM and what else pidfd_send_signal(2) says;
/// `Errc::invalid_argument` for a signal that is none.
[[nodiscard]] SESSIONLOCK_API Result<SignalReport> signal_process(const ProcessIdentity& identity, int signal,
                                                                  Verification verification = Verification::required);

/// Ends a process: SIGTERM, waits for it, and if it is still there after `grace` and still verified, SIGKILL. A process
/// that cannot be verified is never sent SIGKILL.
/// Returns: `signalled` once it is gone; otherwise as `signal_process`. Blocking: `grace`, then until the kill took
/// effect, 5 s at most. Errors: `Errc::timed_out` if it outlives that; as `signal_process`.
[[nodiscard]] SESSIONLOCK_API Result<SignalReport> stop_process(const ProcessIdentity& identity,
                                                                std::chrono::milliseconds grace,
                                                                Verification verification = Verification::required);

}  // namespace sessionlock
