#include "system/descriptors.hpp"

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <memory>
#include <new>
#include <thread>

#include <fcntl.h>
#include <linux/kcmp.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/single_threaded.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "system/cancellation.hpp"
#include "system/file_status.hpp"

namespace sessionlock::sys {
namespace {

constexpr int k_lowest_descriptor = 3;
constexpr int k_unknown_flags = -1;
/// Of the flags that fcntl(2) tells of an open file, those that stay what they are. O_APPEND is our mark on files
/// without a name.
constexpr int k_lasting_flags = O_ACCMODE | O_APPEND | O_DIRECTORY | O_NOFOLLOW | O_PATH;

// --- the register of descriptors -------------------------------------------------------------------------------------
//
// Indexed by number, so that the child's side of a fork can walk it without a lock or an allocation.

struct Slot {
  std::atomic<std::uint64_t> serial{0};  // of the registration; 0: there is none
  // What the descriptor is open on, where that was said (`Fd::expect`).
  std::atomic<std::uint64_t> device{0};
  std::atomic<std::uint64_t> inode{0};
  std::atomic<int> flags{k_unknown_flags};
};
std::atomic<std::uint64_t> g_serials{0};
constexpr std::size_t k_slots_per_chunk = 256;
constexpr std::size_t k_chunks_max = 4096;
using Chunk = std::array<Slot, k_slots_per_chunk>;
std::array<std::atomic<Chunk*>, k_chunks_max> g_chunks{};

/// Where a number's chunk is kept; null for a number that is out of range.
std::atomic<Chunk*>* chunk_of(int fd) noexcept {
  const auto index = static_cast<std::size_t>(fd);
  return fd < 0 || index / k_slots_per_chunk >= k_chunks_max ? nullptr : &g_chunks[index / k_slots_per_chunk];
}

/// Null if nothing was ever registered near this number. Async-signal-safe.
Slot* find_slot(int fd) noexcept {
  const auto* chunk = chunk_of(fd);
  Chunk* found = chunk != nullptr ? chunk->load(std::memory_order_acquire) : nullptr;
  return found != nullptr ? &(*found)[static_cast<std::size_t>(fd) % k_slots_per_chunk] : nullptr;
}

/// Null if there is no memory for it.
Slot* make_slot(int fd) noexcept {
  auto* chunk = chunk_of(fd);
  if (chunk != nullptr && chunk->load(std::memory_order_acquire) == nullptr) {
    auto fresh = std::unique_ptr<Chunk>(new (std::nothrow) Chunk);
    Chunk* none = nullptr;
    if (fresh && chunk->compare_exchange_strong(none, fresh.get(), std::memory_order_acq_rel)) {
      (void)fresh.release();
    }
  }
  return find_slot(fd);
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
  if (Slot* slot = make_slot(fd); slot != nullptr) {
    slot->flags.store(k_unknown_flags, std::memory_order_relaxed);
    slot->serial.store(g_serials.fetch_add(1) + 1, std::memory_order_release);
  }
}

int lasting_flags(int fd) noexcept {
  const int flags = ::fcntl(fd, F_GETFL);
  return flags < 0 ? k_unknown_flags : flags & k_lasting_flags;
}

/// Whose a number is by what it is open on. What was never said counts as ours. Async-signal-safe.
Ownership look_at(int fd, const Slot& slot) noexcept {
  const int expected = slot.flags.load(std::memory_order_acquire);
  if (expected == k_unknown_flags) {
    return Ownership::ours;
  }
  if (lasting_flags(fd) != expected) {
    return Ownership::foreign;
  }
  struct stat status {};
  if (::fstat(fd, &status) != 0) {
    return errno == EBADF ? Ownership::foreign : Ownership::unknown;
  }
  const bool is_same = status.st_ino == slot.inode.load(std::memory_order_relaxed) &&
                       status.st_dev == slot.device.load(std::memory_order_relaxed);
  return is_same ? Ownership::ours : Ownership::foreign;
}

/// Takes a descriptor off the register, and closes it if its number is still ours.
void close_registered(int fd, Slot* slot) noexcept {
  const CancellationDisabled disabled;
  const bool is_ours = slot == nullptr || look_at(fd, *slot) != Ownership::foreign;
  if (slot != nullptr) {
    slot->serial.store(0, std::memory_order_release);
  }
  if (is_ours) {
    ::close(fd);
  }
}

// --- forks -----------------------------------------------------------------------------------------------------------
//
// `fork` waits until no thread stands in a section, for `k_fork_patience` at most: a file system that does not answer
// keeps a thread in open(2) or close(2) for as long as it likes, and the thread that forks may be the one that would
// make it answer (fsfreeze(8)). The kernel gives out a descriptor at the end of open(2) and takes it back at the
// beginning of close(2), so a child has nothing of a thread that is inside these. What it may have, of a thread that
// was not scheduled for so long just after the one or before the other, is a descriptor that it does not know and that
// stays open until its exec or end. None keeps a lock held: what was just opened has none yet, and what is being closed
// has none any more.

std::atomic<int> g_sections{0};
std::atomic<int> g_forks_waiting{0};
thread_local int t_sections = 0;
constexpr std::chrono::milliseconds k_fork_patience{250};
constexpr std::chrono::microseconds k_fork_pause{20};

void before_fork() noexcept {
  (void)process_generation();  // in a child of _Fork or clone: forgets the sections of threads that it does not have
  g_forks_waiting.fetch_add(1);
  const auto now = std::chrono::steady_clock::now;
  for (const auto deadline = now() + k_fork_patience; g_sections.load() > t_sections && now() < deadline;) {
    std::this_thread::sleep_for(k_fork_pause);
  }
}

void after_fork_in_parent() noexcept {
  g_forks_waiting.fetch_sub(1);
}

using detail::k_settling;
std::atomic<std::uint64_t> g_generations{0};
/// On its own page, which the kernel empties in a child.
std::atomic<std::uint64_t>* g_generation = nullptr;
/// The process that the generation was settled for.
std::atomic<pid_t> g_generation_pid{0};
bool g_page_is_wiped = false;

/// This child was made by fork(3), and so has descriptors of its own.
bool g_is_forked = false;

void after_fork_in_child() noexcept {
  if (!g_page_is_wiped) {
    g_generation->store(0);
  }
  g_is_forked = true;
  (void)process_generation();
  g_is_forked = false;
}

/// Forgets what a child inherited, and closes it if it is the child's to close.
///
/// What a number is open on has not been said where a thread of the parent had only just opened it. After fork(3),
/// which gets here before the child's own code, that is closed. Any other child may have closed everything and opened
/// files of its own before its first call of the library, so there it stays open:
/// 1. A thread of the parent opens a file, as number 6. 2. Another thread calls `_Fork`. 3. The child closes all
/// descriptors, and opens its own, up to 22. 4. The child's first call of the library would close its number 6.
void drop_inherited_descriptors(bool closes) noexcept {
  for_each_registered([closes](int fd, Slot& slot) {
    const bool is_said = slot.flags.load(std::memory_order_acquire) != k_unknown_flags;
    if (closes && (is_said || g_is_forked)) {
      close_registered(fd, &slot);
    } else {
      slot.serial.store(0, std::memory_order_release);
    }
  });
}

/// Gives this process descriptors of its own, if it shares them with another (clone(2), `CLONE_FILES`): what it closes
/// would be closed in its parent, and what it opens would outlive it there. False if they stay shared.
bool stop_sharing_descriptors() noexcept {
  constexpr unsigned k_no_number = ~0U;
  constexpr unsigned k_unshare = 1U << 1U;  // CLOSE_RANGE_UNSHARE of <linux/close_range.h>, which may be older
  // CLONE_VM changes nothing here, but lets the call fail (EINVAL) where there are several threads: it would give
  // descriptors of its own to one of them alone.
  if (::unshare(CLONE_FILES | CLONE_VM) == 0) {
    return true;
  }
  // Containers forbid unshare(2) for its namespaces; close_range(2), Linux 5.9, does the same for descriptors alone,
  // and has no such care for threads.
  const bool is_forbidden = errno != EINVAL && __libc_single_threaded != 0;
  if (is_forbidden && ::syscall(SYS_close_range, k_no_number, k_no_number, k_unshare) == 0) {
    return true;
  }
  // More than 0: they differ from the parent's (kcmp(2)). Where that cannot be asked either, as in many containers,
  // they may be the parent's: closing its lock would free the lock under a writer, while a copy that stays open only
  // keeps a dead parent's lock held for as long as this child lives.
  return ::syscall(SYS_kcmp, ::getpid(), ::getppid(), KCMP_FILES, 0, 0) > 0;
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
  const Slot* slot = find_slot(number);
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
  const int number = number_;
  if (is_registered()) {
    const Section section;
    close_registered(number, find_slot(number));
  }
  number_ = -1;
}

bool Fd::is_registered() const noexcept {
  if (number_ < 0 || generation_ != process_generation()) {
    return false;
  }
  const Slot* slot = find_slot(number_);
  return slot == nullptr || slot->serial.load(std::memory_order_acquire) == serial_;
}

void Fd::expect(const FileIdentity& file) noexcept {
  if (Slot* slot = is_registered() ? find_slot(number_) : nullptr; slot != nullptr && file != FileIdentity{}) {
    slot->device.store(file.device, std::memory_order_relaxed);
    slot->inode.store(file.inode, std::memory_order_relaxed);
    slot->flags.store(lasting_flags(number_), std::memory_order_release);
  }
}

Ownership Fd::ownership() const noexcept {
  if (!is_registered()) {
    return Ownership::foreign;
  }
  const Slot* slot = find_slot(number_);
  return slot != nullptr ? look_at(number_, *slot) : Ownership::ours;
}

void expect_as_it_is(Fd& fd) noexcept {
  struct stat status {};
  if (::fstat(fd.get(), &status) == 0) {
    fd.expect(identity_of(status));
  }
}

void mark_nameless(Fd& fd) noexcept {
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags >= 0) {
    (void)::fcntl(fd.get(), F_SETFL, flags | O_APPEND);
  }
  expect_as_it_is(fd);
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
    const int error = errno;
    drop_inherited_descriptors(g_is_forked || stop_sharing_descriptors());
    errno = error;
    g_generation_pid.store(::getpid());
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

bool is_own_memory() noexcept {
  // Not getpid(3), which older C libraries remember in the memory that is asked about.
  return g_generation_pid.load() == static_cast<pid_t>(::syscall(SYS_getpid));
}

std::size_t open_descriptor_count() noexcept {
  std::size_t count = 0;
  for_each_registered([&count](int, Slot&) { ++count; });
  return count;
}

}  // namespace sessionlock::sys
