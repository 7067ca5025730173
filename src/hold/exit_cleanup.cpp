#include "hold/exit_cleanup.hpp"

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <thread>
#include <utility>
#include <vector>

#include "system/mutex.hpp"
#include "system/per_process.hpp"

namespace sessionlock {
namespace {

/// A place for one hold's address. The low bit is set while a handler works on it, and whoever wants to destroy the
/// hold waits for that; the handler itself never waits.
using Slot = CleanupSlot;
constexpr std::uintptr_t k_in_use = 1;
static_assert(alignof(HoldCore) > k_in_use);

constexpr std::size_t k_slots_per_block = 64;
struct Block {
  std::array<Slot, k_slots_per_block> slots{};
  Block* next{nullptr};
};
/// Blocks are only ever added, at the front, and never freed.
std::atomic<Block*> g_blocks{nullptr};

std::atomic<bool> g_is_registered{false};

struct FreeSlots {
  Mutex mutex;
  std::vector<Slot*> slots GUARDED_BY(mutex);
  std::size_t capacity GUARDED_BY(mutex){0};
};
PerProcess<FreeSlots> g_free_slots;

std::uintptr_t address_of(const HoldCore& core) {
  return reinterpret_cast<std::uintptr_t>(&core);
}

void add_block(FreeSlots& free) REQUIRES(free.mutex) {
  auto* block = new Block;
  free.capacity += k_slots_per_block;
  free.slots.reserve(free.capacity);
  for (Slot& slot : block->slots) {
    free.slots.push_back(&slot);
  }
  block->next = g_blocks.load();
  while (!g_blocks.compare_exchange_weak(block->next, block)) {
  }
}

}  // namespace

void register_for_cleanup(HoldCore& core) {
  // Twice rather than never: a child may be forked between the two steps, and a second call finds nothing to do.
  if (!g_is_registered.load()) {
    g_is_registered.store(std::atexit(clean_up_holds) == 0);
  }
  FreeSlots& free = g_free_slots.get();
  const MutexLock lock(free.mutex);
  if (free.slots.empty()) {
    add_block(free);
  }
  core.slot = free.slots.back();
  free.slots.pop_back();
  core.slot->store(address_of(core));
}

void unregister_from_cleanup(HoldCore& core) noexcept {
  Slot* const slot = std::exchange(core.slot, nullptr);
  if (core.generation != sys::process_generation()) {
    slot->store(0);  // in a child, where no handler of the parent's threads goes on working
    return;
  }
  std::uintptr_t expected = address_of(core);
  while (!slot->compare_exchange_weak(expected, 0)) {
    expected = address_of(core);
    std::this_thread::yield();  // a handler works on it in another thread
  }
  FreeSlots& free = g_free_slots.get();
  const MutexLock lock(free.mutex);
  free.slots.push_back(slot);  // has the capacity since its block was added
}

void clean_up_holds() noexcept {
  // Without this: 1. P holds a lock and calls vfork(2). 2. The child gets SIGTERM before its exec: P's handler runs, in
  // P's memory, with P's descriptors. 3. The handler removes the lock file, and ends the child alone. 4. B acquires the
  // lock while P writes.
  if (!sys::is_own_memory()) {
    return;
  }
  for (Block* block = g_blocks.load(); block != nullptr; block = block->next) {
    for (Slot& slot : block->slots) {
      std::uintptr_t address = slot.load();
      if (address == 0 || (address & k_in_use) != 0 || !slot.compare_exchange_strong(address, address | k_in_use)) {
        continue;
      }
      auto* core = reinterpret_cast<HoldCore*>(address);  // NOLINT(performance-no-int-to-ptr): the low bit is a flag
      if (core->release_at_exit) {
        (void)core->try_end();
      }
      slot.store(address);
    }
  }
}

}  // namespace sessionlock
