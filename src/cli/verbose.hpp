#pragma once

/// \file
/// Prints on standard error what happens to a lock: its take-over always, the rest with `--verbose`.

#include <functional>

#include <sessionlock/event.hpp>
#include <sessionlock/session_lock.hpp>

namespace sessionlock::cli {

/// Prints one line about the dead owner whose lock was taken over, if there is one. The caller of the command may have
/// to repair what that owner left undone, and no later acquire reports it again.
void print_take_over(const SessionLock& acquired);

/// An observer that prints which process an acquire waits for, and how long it took.
[[nodiscard]] std::function<void(const Event&)> verbose_observer();

}  // namespace sessionlock::cli
