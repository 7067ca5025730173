#pragma once

/// \file
/// Clean-up of holds when a signal ends the process.

#include <span>

namespace sessionlock {

/// Handles these signals from now on, once for the process, where nobody did before: ends every idle hold, then lets
/// the signal do what it would have done, so that the exit status tells the truth. Where that is nothing, in pid 1 of a
/// PID namespace, the process exits with 128 plus the signal's number.
///
/// A signal that is ignored stays ignored. One with a handler stays that handler's: whether the process goes on is the
/// application's decision, and a lock must not be freed under a writer that lives.
/// A second signal during the clean-up is harmless: what it leaves undone the kernel and the next acquirer do.
void install_signal_cleanup(std::span<const int> signals);

}  // namespace sessionlock
