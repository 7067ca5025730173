#include "system/descriptors.hpp"

#include <array>
#include <atomic>
#include <cerrno>
#include <memory>
#include <new>

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include "system/cancellation.hpp"

namespace sessionlock::sys {
namespace {

constexpr int k_lowest_descriptor = 3;

// --- the register of descriptors -------------------------------------------------------------------------------------
//
// Indexed by number, so that the child's side of a fork can walk it without a lock or an allocation.

struct Slot {
  std::atomic<std::uint64_t> serial{0};  // of the registration; 0: there is none
  std::atomic<std::uint64_t> device{0};
  std::atomic<std::uint64_t> inode{0};  // 0: not known
};
std::atomic<std::uint64_t> g_serials{0};
constexpr std::size_t k_slots_per_chunk = 256;
constexpr std::size_t k_chunks_max = 4096;
using Chunk = std::array<Slot, k_slots_per_chunk>;
std::array<std::atomic<Chunk*>, k_chunks_max> g_chunks{};

Slot* slot_of(int fd) noexcept {
  const auto index = static_cast<std::size_t>(fd);
  if (fd < 0 || index / k_slots_per_chunk >= k_chunks_max) {
    return nullptr;
  }
  auto& chunk = g_chunks[index / k_slots_per_chunk];
  Chunk* found = chunk.load(std::memory_order_acquire);
  if (found == nullptr) {
    auto fresh = std::unique_ptr<Chunk>(new (std::nothrow) Chunk);
    if (!fresh) {
      return nullptr;
    }
    if (chunk.compare_exchange_strong(found, fresh.get(), std::memory_order_acq_rel)) {
      found = fresh.release();
    }
  }
  return &(*found)[index % k_slots_per_chunk];
}

template <class F>
void for_each_registered(F&& visit) noexcept {
  for (std::size_t c = 0; c < k_chunks_max; ++c) {
    Chunk* chunk = g_chunks[c].load(std::memory_order_acquire);
    for (std::size_t i = 0; chunk != nullptr && i < k_slots_per_chunk; ++i) {
      if ((*chunk)[i].serial.load(std::memory_order_acquire) != 0) {
        visit(static_cast<int>(c * k_slots_per_chunk + i), (*chunk)[i]);
      }
    }
  }
}

void register_descriptor(int fd) noexcept {
  if (Slot* slot = slot_of(fd); slot != nullptr) {
    slot->inode.store(0, std::memory_order_relaxed);
    slot->serial.store(g_serials.fetch_add(1) + 1, std::memory_order_release);
  }
}

/// Closes a registered descriptor while its number still refers to the inode that was remembered for it.
void close_registered(int fd, Slot* slot) noexcept {
  const CancellationDisabled disabled;
  std::uint64_t inode = 0;
  std::uint64_t device = 0;
  if (slot != nullptr) {
    inode = slot->inode.load(std::memory_order_relaxed);
    device = slot->device.load(std::memory_order_relaxed);
    slot->serial.store(0, std::memory_order_release);
  }
  struct stat status {};
  if (inode == 0 || (::fstat(fd, &status) == 0 && status.st_ino == inode && status.st_dev == device)) {
    ::close(fd);
  }
}

void close_inherited_descriptors() noexcept {
  for_each_registered([](int fd, Slot& slot) { close_registered(fd, &slot); });
}

// --- forks -----------------------------------------------------------------------------------------------------------
//
// `fork` waits until nobody stands in a section.

std::atomic<int> g_sections{0};
std::atomic<int> g_forks_waiting{0};
thread_local int t_sections = 0;

void before_fork() noexcept {
  (void)process_generation();  // in a child of _Fork or clone: forgets the sections of threads that it does not have
  g_forks_waiting.fetch_add(1);
  while (g_sections.load() > t_sections) {
    ::sched_yield();
  }
}

void after_fork_in_parent() noexcept {
  g_forks_waiting.fetch_sub(1);
}

using detail::k_settling;
std::atomic<std::uint64_t> g_generations{0};
/// On its own page, which the kernel empties in a child.
std::atomic<std::uint64_t>* g_generation = nullptr;
/// Where pages cannot be wiped.
std::atomic<pid_t> g_generation_pid{0};
bool g_page_is_wiped = false;

void after_fork_in_child() noexcept {
  if (!g_page_is_wiped) {
    g_generation->store(0);
  }
  (void)process_generation();
}

std::atomic<std::uint64_t>* map_generation_page() noexcept {
  static std::atomic<std::uint64_t> fallback{0};
  const auto size = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  void* page = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) {
    return &fallback;
  }
  g_page_is_wiped = ::madvise(page, size, MADV_WIPEONFORK) == 0;
  return new (page) std::atomic<std::uint64_t>{0};
}

void install_fork_handling() noexcept {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  ::pthread_once(&once, [] {
    g_generation = map_generation_page();
    g_generation_pid.store(::getpid());
    g_generation->store(g_generations.fetch_add(1) + 1);
    ::pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    if (g_page_is_wiped) {
      detail::g_wiped_generation.store(g_generation, std::memory_order_release);
    }
  });
}

}  // namespace

std::atomic<const std::atomic<std::uint64_t>*> detail::g_wiped_generation{nullptr};

Section::Section() noexcept {
  // A thread that is inside already must not wait for a fork that waits for it.
  while (true) {
    g_sections.fetch_add(1);
    if (t_sections > 0 || g_forks_waiting.load() == 0) {
      break;
    }
    g_sections.fetch_sub(1);
    ::sched_yield();
  }
  ++t_sections;
}

Section::~Section() {
  --t_sections;
  g_sections.fetch_sub(1);
}

Fd OpenedAccess::adopt(int number) noexcept {
  const Slot* slot = slot_of(number);
  return {number, process_generation(), slot != nullptr ? slot->serial.load(std::memory_order_acquire) : 0};
}

int adopt(int fd) noexcept {
  if (fd >= 0 && fd < k_lowest_descriptor) {
    const int moved = ::fcntl(fd, F_DUPFD_CLOEXEC, k_lowest_descriptor);
    const int error = errno;
    ::close(fd);
    errno = error;
    fd = moved;
  }
  if (fd >= 0) {
    register_descriptor(fd);
  }
  return fd;
}

void Fd::reset() noexcept {
  const int number = std::exchange(number_, -1);
  if (number < 0 || generation_ != process_generation()) {
    return;
  }
  const Section section;
  Slot* slot = slot_of(number);
  if (slot == nullptr || slot->serial.load(std::memory_order_acquire) == serial_) {
    close_registered(number, slot);
  }
}

void Fd::abandon() noexcept {
  const int number = std::exchange(number_, -1);
  if (number < 0 || generation_ != process_generation()) {
    return;
  }
  if (Slot* slot = slot_of(number); slot != nullptr) {
    std::uint64_t expected = serial_;
    slot->serial.compare_exchange_strong(expected, 0);
  }
}

std::uint64_t detail::settle_generation() noexcept {
  install_fork_handling();
  if (!g_page_is_wiped && g_generation_pid.load() != ::getpid()) {
    g_generation->store(0);
    g_generation_pid.store(::getpid());
  }
  std::uint64_t generation = g_generation->load(std::memory_order_acquire);
  if (generation != 0 && generation != k_settling) [[likely]] {
    return generation;
  }
  // A child's first call. One thread settles it; others of a child made by raw clone wait for that.
  if (generation == 0 && g_generation->compare_exchange_strong(generation, k_settling)) {
    // Nobody enters a section before this, so what is counted there are threads that only the parent has.
    g_sections.store(t_sections);
    g_forks_waiting.store(0);
    close_inherited_descriptors();
    const std::uint64_t fresh = g_generations.fetch_add(1) + 1;
    g_generation->store(fresh, std::memory_order_release);
    return fresh;
  }
  while ((generation = g_generation->load(std::memory_order_acquire)) == k_settling) {
    ::sched_yield();
  }
  return generation;
}

std::uint64_t settled_generation() noexcept {
  if (g_generation == nullptr || (!g_page_is_wiped && g_generation_pid.load() != ::getpid())) {
    return 0;
  }
  const std::uint64_t generation = g_generation->load(std::memory_order_acquire);
  return generation == k_settling ? 0 : generation;
}

void remember_inode(int fd, dev_t device, ino_t inode) noexcept {
  if (Slot* slot = slot_of(fd); slot != nullptr) {
    slot->device.store(device, std::memory_order_relaxed);
    slot->inode.store(inode, std::memory_order_release);
  }
}

std::size_t open_descriptor_count() noexcept {
  std::size_t count = 0;
  for_each_registered([&count](int, Slot&) { ++count; });
  return count;
}

}  // namespace sessionlock::sys
