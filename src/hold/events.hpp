#pragma once

/// \file
/// Calls the observers of managers.

#include <sessionlock/event.hpp>
#include <sessionlock/options.hpp>

namespace sessionlock {

/// Calls the observer, if there is one, and drops what it throws. The caller holds no lock of the library.
void notify(const ManagerOptions& options, const Event& event) noexcept;

}  // namespace sessionlock
