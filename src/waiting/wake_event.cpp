#include "waiting/wake_event.hpp"

#include <cstdint>
#include <utility>

namespace sessionlock {

std::error_code WakeEvent::open() {
  auto opened = sys::eventfd();
  event_ = std::move(opened.fd);
  return opened.ok() ? std::error_code{} : opened.code();
}

void WakeEvent::signal() const noexcept {
  const std::uint64_t one = 1;
  if (event_.is_usable()) {
    (void)sys::write(event_.get(), &one, sizeof one);
  }
}

bool WakeEvent::drain() const noexcept {
  if (!event_.is_usable()) {
    return false;
  }
  std::uint64_t count = 0;
  (void)sys::read(event_.get(), &count, sizeof count);
  return true;
}

}  // namespace sessionlock
