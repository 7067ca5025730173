#pragma once

/// \file
/// Where exit and signal handlers find the holds of this process.

#include "hold/hold_core.hpp"

namespace sessionlock {

/// Lets exit and signal handlers find a hold, from construction to destruction.
void register_for_cleanup(HoldCore& core);
void unregister_from_cleanup(HoldCore& core) noexcept;
/// Ends every registered hold that may be ended and is idle. Does nothing in a child that runs in its parent's memory
/// (vfork(2)). Async-signal-safe.
void clean_up_holds() noexcept;

}  // namespace sessionlock
