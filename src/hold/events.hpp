#pragma once

/// \file
/// Calls the observers of managers.

#include <filesystem>

#include <sessionlock/error.hpp>
#include <sessionlock/event.hpp>
#include <sessionlock/options.hpp>

#include "hold/hold_key.hpp"

namespace sessionlock {

/// Calls the observer, if there is one, and drops what it throws. The caller holds no lock of the library.
void notify(const ManagerOptions& options, const Event& event) noexcept;

/// The same for a caller that goes on with this lock when the observer returns: that is acquiring it, waiting for it,
/// or about to release it. Until the observer returns a wait of this thread for the lock would be a wait for itself
/// (`is_notifying`).
void notify_midway(const ManagerOptions& options, const HoldKeyView& lock, const Event& event) noexcept;
/// Whether this thread is inside `notify_midway` about this lock, at whatever depth.
[[nodiscard]] bool is_notifying(const HoldKeyView& lock) noexcept;
/// The answer to a wait for such a lock.
[[nodiscard]] Error wait_inside_observer(const std::filesystem::path& lock);

}  // namespace sessionlock
