#pragma once

/// \file
/// Objects that are made on first use and never destroyed.

#include <atomic>

namespace sessionlock {

/// A `T` that is made on first use, for a static object: unlike a static variable of a function it is never destroyed,
/// and no child waits for a thread of its parent that was making it at the fork. Of threads that are first at the same
/// moment each makes one, and the first one's is kept. Thread safety: safe, where `T` is read only.
template <class T>
class Lasting {
 public:
  constexpr Lasting() = default;

  /// Lifetime: as long as the process and its children.
  const T& get() {
    const T* made = made_.load(std::memory_order_acquire);
    if (made == nullptr) {
      const T* const fresh = new T{};
      if (made_.compare_exchange_strong(made, fresh, std::memory_order_acq_rel)) {
        return *fresh;
      }
      delete fresh;
    }
    return *made;
  }

 private:
  std::atomic<const T*> made_{nullptr};
};

}  // namespace sessionlock
