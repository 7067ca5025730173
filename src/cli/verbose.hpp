#pragma once

/// \file
/// Prints on standard error what happens to a lock: `--verbose`.

#include <functional>

#include <sessionlock/event.hpp>

namespace sessionlock::cli {

/// An observer that prints which process an acquire waits for, and what it took over.
[[nodiscard]] std::function<void(const Event&)> verbose_observer();

}  // namespace sessionlock::cli
