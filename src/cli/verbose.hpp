#pragma once

/// \file
/// Tells on standard error what happens to a lock: `--verbose`.

#include <functional>

#include <sessionlock/event.hpp>

namespace sessionlock::cli {

/// An observer that tells whom an acquire waits for, and what it took over.
[[nodiscard]] std::function<void(const Event&)> narrator();

}  // namespace sessionlock::cli
