#pragma once

/// \file
/// Something that one thread signals and another can poll for.

#include <system_error>

#include "system/system.hpp"

namespace sessionlock {

/// An eventfd(2). Thread safety: `signal` from any thread while nothing else but `drain` is done to it.
class WakeEvent {
 public:
  /// Errors: EMFILE and the like; signals go unheard then.
  [[nodiscard]] std::error_code open();
  void close() noexcept { event_.reset(); }
  [[nodiscard]] bool is_open() const noexcept { return static_cast<bool>(event_); }
  /// Whether its number is still its own (see `sys::Fd`).
  [[nodiscard]] bool is_usable() const noexcept { return event_.is_usable(); }
  [[nodiscard]] int fd() const noexcept { return event_.get(); }
  /// Makes the descriptor readable. Does nothing under a number that is foreign.
  void signal() const noexcept;
  /// Takes all signals back. False if the number is foreign: nothing was read.
  [[nodiscard]] bool drain() const noexcept;

 private:
  sys::Fd event_;
};

}  // namespace sessionlock
