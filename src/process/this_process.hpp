#pragma once

/// \file
/// What this process is, and where it runs: its incarnation, boot and namespaces, read once and remembered.

#include <cstdint>
#include <optional>

#include <sessionlock/process_identity.hpp>

#include "verdict/classify.hpp"

namespace sessionlock {

/// This process as it was read before: for what is written down, of which start time and time namespace must be those
/// of one moment. Costs an atomic load or two, except for the first call.
/// Lifetime: the views and the reference live as long as the process; after a fork the next call gives a new object and
/// leaves the old one alone (it is never freed). So does a call after one that lacked descriptors or memory, if it
/// reads more. Thread safety: safe.
[[nodiscard]] const Observer& this_observer();
/// The cached identity behind `this_process`. Lifetime as `this_observer`.
[[nodiscard]] const ProcessIdentity& this_identity();

/// This process as the observer of others. A process with one thread can enter another time namespace (setns(2)), where
/// the start times of all processes are other numbers; so the kernel is asked, at the cost of a system call, whether it
/// is still where it was. Lifetime as `this_observer`.
[[nodiscard]] const Observer& current_observer();
/// The identity of `current_observer`.
[[nodiscard]] const ProcessIdentity& current_identity();
/// Device of the `/proc` that was seen to have the pids of this process; 0 if none was.
[[nodiscard]] std::uint64_t trusted_proc_device();

/// Wall-clock time of this kernel's boot: `btime` of `/proc/stat`, in seconds since 1970. None where it cannot be read
/// or where `/proc/self/timens_offsets` is not all zero, because then it is another namespace's. Nor where `/proc/stat`
/// is not the kernel's own: containers are given one with the container's start.
[[nodiscard]] std::optional<std::int64_t> boot_time_seconds();

}  // namespace sessionlock
