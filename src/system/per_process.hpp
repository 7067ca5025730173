#pragma once

/// \file
/// State that belongs to one process incarnation.

#include <atomic>
#include <cstdint>

#include "system/system.hpp"

namespace sessionlock {

/// A `T` that is made on first use and made anew in a forked child. The parent's copy is left alone there: a mutex in
/// it may be locked by a thread that the child does not have. Never destroyed, so that it outlives every static object.
/// Thread safety: safe; `T` must be so itself.
template <class T>
class PerProcess {
 public:
  constexpr PerProcess() = default;

  /// Lifetime: as long as this process incarnation.
  T& get() {
    const std::uint64_t generation = sys::process_generation();
    Node* node = node_.load(std::memory_order_acquire);
    if (node != nullptr && node->generation == generation) [[likely]] {
      return node->value;
    }
    auto* fresh = new Node{generation, node, {}};
    if (node_.compare_exchange_strong(node, fresh, std::memory_order_acq_rel)) {
      return fresh->value;
    }
    delete fresh;
    return node->value;
  }
  /// The same where it is made already; null otherwise. For destructors, which must not take memory.
  T* find() noexcept {
    Node* node = node_.load(std::memory_order_acquire);
    return node != nullptr && node->generation == sys::process_generation() ? &node->value : nullptr;
  }

 private:
  struct Node {
    std::uint64_t generation;
    Node* inherited;  // keeps it reachable, for leak checkers
    T value;
  };
  std::atomic<Node*> node_{nullptr};
};

}  // namespace sessionlock
