#include "process/this_process.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "process/proc_text.hpp"
#include "process/procfs.hpp"
#include "system/system.hpp"

namespace sessionlock {
namespace {

constexpr std::size_t k_boot_id_bytes_max = 64;
constexpr std::size_t k_offsets_bytes_max = 4096;

/// What is known of this process; never changed once others can see it, and never freed.
struct Snapshot {
  std::uint64_t generation{};
  /// The one before, possibly our parent's: keeps it reachable for leak checkers.
  const Snapshot* previous{};
  ProcessIdentity identity{};
  bool time_namespaces_absent{};
  /// Device of the `/proc` that was seen to number processes as we do; 0 if none was.
  std::uint64_t proc_device{};
  /// A shortage kept something from being read.
  bool incomplete{};
  /// Views into `identity`.
  Observer observer{};
};

std::atomic<const Snapshot*> g_snapshot{nullptr};

void note_failure(Snapshot& snapshot, int error) {
  snapshot.incomplete = snapshot.incomplete || sys::is_own_shortage(error);
}

void read_boot_id(int proc, Snapshot& snapshot) {
  const ProcText text = read_proc_file(proc, "sys/kernel/random/boot_id", k_boot_id_bytes_max);
  note_failure(snapshot, text.error);
  const std::string_view content = text.content;
  const std::string_view id = content.substr(0, content.find('\n'));
  const bool plain = std::all_of(id.begin(), id.end(), [](char c) { return c > ' ' && c < '\x7f'; });
  snapshot.identity.boot_id = plain ? id : std::string_view{};
}

/// Through `thread-self`, because the namespaces of a main thread that has ended are gone while others run: for a time
/// namespace that would look as if the kernel had none (kernel/time/namespace.c, `timens_get`).
void read_namespaces(int proc, Snapshot& snapshot) {
  struct stat status {};
  const auto pid_namespace = sys::fstatat(proc, "thread-self/ns/pid", status, 0);
  note_failure(snapshot, pid_namespace.error);
  if (!pid_namespace.ok()) {
    return;
  }
  snapshot.identity.pid_namespace = status.st_ino;
  const auto time_namespace = sys::fstatat(proc, "thread-self/ns/time", status, 0);
  note_failure(snapshot, time_namespace.error);
  snapshot.identity.time_namespace = time_namespace.ok() ? status.st_ino : 0;
  snapshot.time_namespaces_absent = time_namespace.error == ENOENT;
}

std::string read_host_name() {
  std::array<char, 256> name{};
  // A name that was cut need not end in a null character (gethostname(2)); one that cannot be had stays empty.
  (void)::gethostname(name.data(), name.size() - 1);
  return name.data();
}

std::unique_ptr<Snapshot> take_snapshot(std::uint64_t generation) {
  auto snapshot = std::make_unique<Snapshot>();
  ProcessIdentity& identity = snapshot->identity;
  snapshot->generation = generation;
  identity.pid = ::getpid();
  identity.host = read_host_name();
  const auto read = read_stat(identity.pid, 0);
  note_failure(*snapshot, read.error);
  snapshot->proc_device = read.device;
  if (read.stat) {
    identity.start_time_ticks = read.stat->start_time_ticks;
  }
  const auto proc = open_proc();
  note_failure(*snapshot, proc.error);
  if (proc.ok()) {
    read_boot_id(proc.fd.get(), *snapshot);
    read_namespaces(proc.fd.get(), *snapshot);
  }
  snapshot->observer = {identity.pid,           identity.start_time_ticks, identity.boot_id,
                        identity.pid_namespace, identity.time_namespace,   snapshot->time_namespaces_absent};
  return snapshot;
}

/// Reads this process anew, because nothing is known of it yet, a shortage left gaps, or it is where it was not before.
const Snapshot& refresh_snapshot(const Snapshot* current, std::uint64_t generation) {
  auto fresh = take_snapshot(generation);
  while (true) {
    // Another thread may have been faster; and a shortage that lasts must not cost memory at each call.
    if (current != nullptr && current->generation == generation && current->identity == fresh->identity &&
        (fresh->incomplete || !current->incomplete)) {
      return *current;
    }
    fresh->previous = current;
    if (g_snapshot.compare_exchange_weak(current, fresh.get(), std::memory_order_acq_rel)) {
      return *fresh.release();
    }
  }
}

const Snapshot& this_snapshot() {
  const std::uint64_t generation = sys::process_generation();
  const Snapshot* current = g_snapshot.load(std::memory_order_acquire);
  if (current != nullptr && current->generation == generation && !current->incomplete) [[likely]] {
    return *current;
  }
  return refresh_snapshot(current, generation);
}

/// A question that fails for a shortage leaves the namespace unknown. Where it fails for another reason there is no
/// `/proc`, and no start time can be read in the wrong namespace either.
const Snapshot& current_snapshot() {
  const Snapshot& known = this_snapshot();
  if (known.time_namespaces_absent) {
    return known;
  }
  struct stat status {};
  const auto asked = sys::fstatat(AT_FDCWD, "/proc/thread-self/ns/time", status, 0);
  const bool may_have_changed =
      asked.ok() ? status.st_ino != known.identity.time_namespace : sys::is_own_shortage(asked.error);
  return may_have_changed ? refresh_snapshot(&known, known.generation) : known;
}

}  // namespace

const Observer& this_observer() {
  return this_snapshot().observer;
}

const ProcessIdentity& this_identity() {
  return this_snapshot().identity;
}

const Observer& current_observer() {
  return current_snapshot().observer;
}

const ProcessIdentity& current_identity() {
  return current_snapshot().identity;
}

std::uint64_t trusted_proc_device() {
  return this_snapshot().proc_device;
}

std::optional<std::int64_t> boot_time_seconds() {
  const auto proc = open_proc();
  if (!proc.ok()) {
    return std::nullopt;
  }
  const int root = proc.fd.get();
  // `timens_offsets` tells the offsets of later children, which are ours as long as we have not unshared.
  struct stat own {};
  struct stat of_children {};
  const ProcText offsets = read_proc_file(root, "self/timens_offsets", k_offsets_bytes_max);
  const bool absent = offsets.error == ENOENT && this_snapshot().time_namespaces_absent;
  const bool zero = offsets.error == 0 && timens_offsets_are_zero(offsets.content) &&
                    sys::fstatat(root, "thread-self/ns/time", own, 0).ok() &&
                    sys::fstatat(root, "thread-self/ns/time_for_children", of_children, 0).ok() &&
                    own.st_ino == of_children.st_ino;
  if (!absent && !zero) {
    return std::nullopt;
  }
  const auto file = sys::open(root, "stat", O_RDONLY);
  if (!file.ok() || !is_procfs(file.fd.get())) {
    return std::nullopt;
  }
  return parse_btime(read_proc_text(file.fd.get(), k_proc_text_bytes_max).content);
}

}  // namespace sessionlock
