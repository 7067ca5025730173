#include "process/process_probe.hpp"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstddef>
#include <limits>
#include <memory>
#include <string>
#include <tuple>

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "system/system.hpp"

namespace sessionlock {
namespace {

constexpr std::size_t k_stat_bytes_max = 4096;
constexpr std::size_t k_boot_id_bytes_max = 64;
/// `/proc/self/status` lists up to 65536 groups; `/proc/stat` counts every interrupt; `/proc/locks` has every lock of
/// the machine.
constexpr std::size_t k_text_bytes_max = std::size_t{4} * 1024 * 1024;
constexpr std::size_t k_chunk_bytes = std::size_t{16} * 1024;
constexpr int k_probe_attempts_max = 2;

// --- parsing ---------------------------------------------------------------------------------------------------------

/// The text up to the next separator; what is left begins after it.
std::string_view take_until(std::string_view& text, char separator) {
  const auto end = text.find(separator);
  const std::string_view taken = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return taken;
}

/// The next word of a line whose words are separated by any number of blanks; empty at the end.
std::string_view take_word(std::string_view& line) {
  line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
  const std::string_view word = line.substr(0, line.find_first_of(" \t"));
  line.remove_prefix(word.size());
  return word;
}

template <class T>
std::optional<T> parse_number(std::string_view text, int base = 10) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc{} || end != text.data() + text.size()) {
    return std::nullopt;
  }
  return value;
}

/// Skips fields that are separated by single blanks; false if one is missing.
bool skip_fields(std::string_view& text, int count) {
  for (int i = 0; i < count; ++i) {
    if (take_until(text, ' ').empty()) {
      return false;
    }
  }
  return true;
}

/// One line of `/proc/locks`, proc_locks(5): `1: FLOCK  ADVISORY  WRITE 1234 fe:00:12345 0 EOF`. One that waits has
/// `->` after the number.
struct LockLine {
  bool flock{};
  bool waits{};
  pid_t pid{};
  unsigned major{};
  unsigned minor{};
  std::uint64_t inode{};
};

std::optional<LockLine> parse_lock_line(std::string_view line) {
  LockLine result;
  (void)take_word(line);  // the number
  std::string_view kind = take_word(line);
  result.waits = kind == "->";
  if (result.waits) {
    kind = take_word(line);
  }
  result.flock = kind == "FLOCK";
  (void)take_word(line);  // ADVISORY
  (void)take_word(line);  // READ or WRITE
  const auto pid = parse_number<pid_t>(take_word(line));
  std::string_view file = take_word(line);
  const auto major = parse_number<unsigned>(take_until(file, ':'), 16);
  const auto minor = parse_number<unsigned>(take_until(file, ':'), 16);
  const auto inode = parse_number<std::uint64_t>(file);
  // A line that was cut off inside the inode's digits would name another file: the offset after it must be there.
  if (!pid || !major || !minor || !inode || take_word(line).empty()) {
    return std::nullopt;
  }
  result.pid = *pid;
  result.major = *major;
  result.minor = *minor;
  result.inode = *inode;
  return result;
}

/// Whether a process is seen to have this file open.
bool has_open(pid_t pid, const FileIdentity& file) {
  const auto descriptors =
      sys::open(AT_FDCWD, ("/proc/" + std::to_string(pid) + "/fd").c_str(), O_RDONLY | O_DIRECTORY);
  bool found = false;
  if (descriptors.ok()) {
    (void)sys::read_names(descriptors.fd.get(), [&](std::string_view name) {
      struct stat status {};
      found = found || (sys::fstatat(descriptors.fd.get(), std::string(name).c_str(), status, 0).ok() &&
                        status.st_dev == file.device && status.st_ino == file.inode);
    });
  }
  return found;
}

// --- reading ---------------------------------------------------------------------------------------------------------

/// What a file says, or why it cannot be read.
struct Text {
  std::string content{};
  int error{};
};

/// Reads in chunks up to the end or the bound. INVARIANT: each chunk begins where the last one ended, so that a file of
/// `/proc` goes on with the text it made for the first (fs/seq_file.c, `read_pos`).
Text read_text(int fd, std::size_t bytes_max) {
  Text result;
  std::size_t size = 0;
  while (size < bytes_max) {
    result.content.resize(std::min(size + k_chunk_bytes, bytes_max));
    const auto read = sys::pread(fd, result.content.data() + size, result.content.size() - size, size);
    if (!read.ok()) {
      return {{}, read.error};
    }
    if (read.value == 0) {
      break;
    }
    size += static_cast<std::size_t>(read.value);
  }
  result.content.resize(size);
  return result;
}

Text read_file(int directory, const char* path, std::size_t bytes_max) {
  const auto file = sys::open(directory, path, O_RDONLY);
  return file.ok() ? read_text(file.fd.get(), bytes_max) : Text{{}, file.error};
}

/// `/proc` as it is mounted now: all that is read for one answer comes from one mount.
sys::Opened open_proc() {
  return sys::open(AT_FDCWD, "/proc", O_PATH | O_DIRECTORY);
}

bool is_procfs(int fd) {
  sys::FileSystem file_system;
  return sys::fstatfs(fd, file_system).ok() && file_system.type == PROC_SUPER_MAGIC;
}

/// Whether a pid means the same in this `/proc` as in kill(2).
struct Numbering {
  bool own{};
  std::uint64_t device{};
  int error{};
};

/// `/proc/self` naming our pid is necessary but not enough: a process can have the same number in two namespaces.
/// `NSpid` settles it, which is slower, and is not asked again on the device where it was (`trusted_device`).
Numbering numbering_of(int proc, std::uint64_t trusted_device) {
  std::array<char, 16> link{};
  const auto length = sys::readlinkat(proc, "self", link.data(), link.size());
  if (!length.ok()) {
    return {false, 0, length.error};
  }
  const auto self = parse_number<pid_t>({link.data(), static_cast<std::size_t>(length.value)});
  struct stat status {};
  if (self != ::getpid()) {
    return {};
  }
  if (const auto asked = sys::fstat(proc, status); !asked.ok()) {
    return {false, 0, asked.error};
  }
  if (status.st_dev == trusted_device) {
    return {true, trusted_device, 0};
  }
  if (!is_procfs(proc)) {
    return {};
  }
  const Text text = read_file(proc, "self/status", k_text_bytes_max);
  if (text.error != 0 || !status_is_of_own_namespace(text.content)) {
    return {false, 0, text.error};
  }
  return {true, status.st_dev, 0};
}

/// None with error 0: malformed, or not our numbering.
struct StatRead {
  std::optional<ProcStat> stat{};
  std::uint64_t device{};
  int error{};
};

StatRead read_stat(pid_t pid, std::uint64_t trusted_device) {
  const auto proc = open_proc();
  if (!proc.ok()) {
    return {{}, 0, proc.error};
  }
  const auto numbering = numbering_of(proc.fd.get(), trusted_device);
  if (!numbering.own) {
    return {{}, 0, numbering.error};
  }
  const Text text = read_file(proc.fd.get(), (std::to_string(pid) + "/stat").c_str(), k_stat_bytes_max);
  return {text.error == 0 ? parse_proc_stat(text.content) : std::nullopt, numbering.device, text.error};
}

// --- this process ----------------------------------------------------------------------------------------------------

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
  const Text text = read_file(proc, "sys/kernel/random/boot_id", k_boot_id_bytes_max);
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

/// Reads this process anew, because nothing is known of it yet or a shortage left gaps.
const Snapshot& refresh_snapshot(const Snapshot* current, std::uint64_t generation) {
  auto fresh = take_snapshot(generation);
  while (true) {
    const bool ours = current != nullptr && current->generation == generation;
    // Another thread may have been faster; and a shortage that lasts must not cost memory at each call.
    if (ours && (!current->incomplete || (fresh->incomplete && fresh->identity == current->identity))) {
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

}  // namespace

std::optional<ProcStat> parse_proc_stat(std::string_view line) {
  const auto name_end = line.rfind(')');
  if (name_end == std::string_view::npos) {
    return std::nullopt;
  }
  std::string_view rest = line.substr(name_end + 1);
  if (!take_until(rest, ' ').empty()) {
    return std::nullopt;
  }
  const std::string_view state = take_until(rest, ' ');  // field 3
  constexpr int k_fields_before_threads = 16;            // 4 … 19
  const bool is_letter =
      state.size() == 1 && ((state[0] >= 'A' && state[0] <= 'Z') || (state[0] >= 'a' && state[0] <= 'z'));
  if (!is_letter || !skip_fields(rest, k_fields_before_threads)) {
    return std::nullopt;
  }
  const auto threads = parse_number<std::int64_t>(take_until(rest, ' '));  // field 20
  if (!threads || *threads < 0 || !skip_fields(rest, 1)) {
    return std::nullopt;
  }
  // Something must follow field 22: digits at the very end may have been cut.
  const auto end = rest.find_first_of(" \n");
  const auto start_time =
      end == std::string_view::npos ? std::nullopt : parse_number<std::uint64_t>(rest.substr(0, end));
  if (!start_time) {
    return std::nullopt;
  }
  return ProcStat{state.front(), *threads, *start_time};
}

bool status_is_of_own_namespace(std::string_view proc_status) {
  while (!proc_status.empty()) {
    std::string_view line = take_until(proc_status, '\n');
    if (take_word(line) == "NSpid:") {
      return !take_word(line).empty() && take_word(line).empty();
    }
  }
  return true;  // a kernel without PID namespaces
}

std::optional<std::int64_t> parse_btime(std::string_view proc_stat) {
  while (!proc_stat.empty()) {
    // A line that was cut has no newline, and may lack digits.
    if (proc_stat.find('\n') == std::string_view::npos) {
      return std::nullopt;
    }
    std::string_view line = take_until(proc_stat, '\n');
    if (take_word(line) == "btime") {
      const auto seconds = parse_number<std::int64_t>(take_word(line));
      return take_word(line).empty() ? seconds : std::nullopt;
    }
  }
  return std::nullopt;
}

bool timens_offsets_are_zero(std::string_view timens_offsets) {
  // `monotonic 0 0`, `boottime 0 0`: clock, seconds, nanoseconds (time_namespaces(7)).
  int clocks = 0;
  while (!timens_offsets.empty()) {
    std::string_view line = take_until(timens_offsets, '\n');
    const std::string_view clock = take_word(line);
    const std::string_view seconds = take_word(line);
    const std::string_view nanoseconds = take_word(line);
    if (clock.empty() || seconds != "0" || nanoseconds != "0" || !take_word(line).empty()) {
      return false;
    }
    ++clocks;
  }
  return clocks > 0;
}

std::optional<pid_t> parse_flock_holder(std::string_view proc_locks, unsigned major, unsigned minor,
                                        std::uint64_t inode) {
  std::optional<pid_t> waiting;
  while (!proc_locks.empty()) {
    const auto line = parse_lock_line(take_until(proc_locks, '\n'));
    // A pid of 0 or less is of another namespace, or of nobody in particular.
    if (!line || !line->flock || line->pid <= 0 || line->major != major || line->minor != minor ||
        line->inode != inode) {
      continue;
    }
    if (!line->waits) {
      return line->pid;
    }
    waiting = waiting ? waiting : line->pid;
  }
  return waiting;
}

std::vector<pid_t> parse_flock_pids(std::string_view proc_locks, std::uint64_t inode) {
  std::vector<pid_t> pids;
  while (!proc_locks.empty()) {
    const auto line = parse_lock_line(take_until(proc_locks, '\n'));
    if (line && line->flock && line->pid > 0 && line->inode == inode) {
      pids.insert(line->waits ? pids.end() : pids.begin(), line->pid);
    }
  }
  return pids;
}

const Observer& this_observer() {
  return this_snapshot().observer;
}

const ProcessIdentity& this_identity() {
  return this_snapshot().identity;
}

std::optional<ProcStat> read_proc_stat(pid_t pid) {
  return pid > 0 ? read_stat(pid, this_snapshot().proc_device).stat : std::nullopt;
}

ProcessProbe probe_process(pid_t pid) {
  if (pid <= 0) {
    return {PidProbe::gone, {}};  // for kill(2) these are process groups
  }
  const std::uint64_t trusted_device = this_snapshot().proc_device;
  for (int attempt = 0; attempt < k_probe_attempts_max; ++attempt) {
    const auto asked = sys::kill(pid, 0);
    if (asked.error == ESRCH) {
      return {PidProbe::gone, {}};
    }
    if (!asked.ok() && asked.error != EPERM) {
      return {};
    }
    const auto read = read_stat(pid, trusted_device);
    if (read.error == ENOENT || read.error == ESRCH) {
      continue;  // it has ended since, or is hidden: kill(2) knows
    }
    if (!read.stat) {
      return {PidProbe::exists, {}};
    }
    if (read.stat->state != 'Z' && read.stat->state != 'X' && read.stat->state != 'x') {
      return {PidProbe::exists, read.stat->start_time_ticks};
    }
    // A zombie counts as a thread itself, so with others running there are two or more.
    if (read.stat->threads == 1) {
      return {PidProbe::gone, {}};
    }
    if (read.stat->threads > 1) {
      return {PidProbe::exists, read.stat->start_time_ticks};
    }
    // None at all: the entry went while it was read (fs/proc/array.c, `do_task_stat` counts under the signal lock).
    //   1. A (a reader) looks up the main thread of B, which has ended while another thread of B runs.
    //   2. B's other thread calls execve, takes over the pid and disposes of the old main thread (fs/exec.c,
    //   de_thread).
    //   3. A reads from what it looked up: Z or X, no threads. Yet B lives.
    // So it is looked up again, and only ESRCH or a whole zombie says gone.
  }
  return {PidProbe::exists, {}};
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
  const Text offsets = read_file(root, "self/timens_offsets", k_stat_bytes_max);
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
  return parse_btime(read_text(file.fd.get(), k_text_bytes_max).content);
}

std::optional<pid_t> flock_holder(const FileIdentity& file) {
  const Text text = read_file(AT_FDCWD, "/proc/locks", k_text_bytes_max);
  if (const auto pid = parse_flock_holder(text.content, major(file.device), minor(file.device), file.inode)) {
    return pid;
  }
  // For stat(2) each subvolume of a btrfs is a device of its own, for /proc/locks all of it is one (fs/locks.c,
  // lock_get_status tells `i_sb->s_dev`): see who has the file open.
  const auto pids = parse_flock_pids(text.content, file.inode);
  const auto found = std::find_if(pids.begin(), pids.end(), [&](pid_t pid) { return has_open(pid, file); });
  return found != pids.end() ? std::optional(*found) : std::nullopt;
}

DescriptorLink descriptor_link(int fd) noexcept {
  constexpr std::string_view k_prefix = "/proc/thread-self/fd/";
  static_assert(k_prefix.size() + std::numeric_limits<int>::digits10 + 2 <= std::tuple_size_v<DescriptorLink>);
  DescriptorLink link{};
  char* const digits = std::copy(k_prefix.begin(), k_prefix.end(), link.begin());
  (void)std::to_chars(digits, link.data() + link.size() - 1, std::max(fd, -1));
  return link;
}

}  // namespace sessionlock
