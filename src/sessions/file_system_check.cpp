#include <sessionlock/file_system_check.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <sys/inotify.h>

#include <sessionlock/lock_manager.hpp>

#include "process/procfs.hpp"
#include "protocol/directory.hpp"
#include "protocol/file_system_trials.hpp"
#include "protocol/inode_guard.hpp"
#include "system/deadline.hpp"
#include "system/file_status.hpp"
#include "system/paths.hpp"
#include "system/random_id.hpp"
#include "text/timestamp.hpp"
#include "verdict/failure.hpp"

namespace sessionlock {
namespace {

using Clock = std::chrono::steady_clock;

/// For an event that the kernel raises at once if it raises it.
constexpr std::chrono::seconds k_event_patience{2};
/// FAT counts two seconds.
constexpr std::chrono::seconds k_step_patience{3};
constexpr int k_steps_wanted = 4;
/// Some kernels write down as many steps as somebody looks at (multigrain timestamps, Linux 6.13): look often at first.
constexpr std::chrono::milliseconds k_tight_time{20};

/// A failure of this process or of the disk, which says nothing about what the file system can do.
bool is_inconclusive(int error) {
  constexpr std::array k_of_the_disk{ENOSPC, EDQUOT, EIO, EACCES, EROFS, ESTALE};
  return sys::is_own_shortage(error) ||
         std::find(k_of_the_disk.begin(), k_of_the_disk.end(), error) != k_of_the_disk.end();
}

/// What to do about a failure that is not the file system's fault; empty for any other.
std::string_view remedy(const std::error_code& code) {
  if (code == std::errc::no_space_on_device) {
    return "The file system is full, which says nothing about what it can do: make room, then try again.";
  }
  if (code == std::error_code(EDQUOT, std::system_category())) {
    return "This user's disk quota is used up, which says nothing about what the file system can do: make room, then "
           "try again.";
  }
  return {};
}

/// A directory of its own, gone with all its content in the end.
class Scratch {
 public:
  static Result<Scratch> make(const std::filesystem::path& parent) {
    auto id = random_lock_id();
    if (!id) {
      return tl::unexpected(random_failure(id.error(), parent));
    }
    Scratch scratch;
    scratch.path_ = parent / (".sessionlock-doctor-" + *id);
    std::error_code code;
    sys::create_directory(scratch.path_, code);
    if (code) {
      scratch.path_.clear();
      return failure(code, "make a scratch directory", parent);
    }
    auto opened = open_directory(scratch.path_.native());
    if (!opened) {
      return tl::unexpected(std::move(opened).error());
    }
    scratch.directory_ = std::move(*opened);
    return scratch;
  }
  Scratch(Scratch&& other) noexcept : path_(std::exchange(other.path_, {})), directory_(std::move(other.directory_)) {}
  Scratch& operator=(Scratch&&) = delete;
  ~Scratch() {
    if (!path_.empty()) {
      directory_.reset();
      std::error_code ignored;
      sys::remove_all(path_, ignored);
    }
  }

  [[nodiscard]] int fd() const { return directory_->fd.get(); }
  /// The file that most is tried on.
  [[nodiscard]] Place file() const { return {directory_, "file"}; }
  [[nodiscard]] std::filesystem::path path() const { return path_; }

 private:
  Scratch() = default;
  std::filesystem::path path_;
  DirectoryPtr directory_;
};

/// The tries, one after the other, on the files of one scratch directory.
class Examination {
 public:
  Examination(const Scratch& scratch, FileSystemCheck& check) : scratch_(scratch), check_(check) {}

  Result<void> run() {
    for (const auto trial : {&Examination::try_file, &Examination::try_nameless, &Examination::try_link,
                             &Examination::try_rename, &Examination::try_locks, &Examination::try_events}) {
      if (auto tried = (this->*trial)(); !tried) {
        return tried;
      }
    }
    try_times();
    return {};
  }

 private:
  [[nodiscard]] tl::unexpected<Error> fail(const std::error_code& code, std::string operation) const {
    return failure(code, std::move(operation), scratch_.path());
  }

  Result<void> try_file() {
    for (sys::Fd* const fd : {&first_, &second_}) {
      auto opened = sys::open(scratch_.fd(), "file", O_CREAT | O_RDWR | O_NOFOLLOW, 0600);
      if (!opened.ok()) {
        return fail(opened.code(), "openat");
      }
      *fd = std::move(opened.fd);
    }
    struct stat opened {};
    check_.stable_inodes = sys::fstat(first_.get(), opened).ok() &&
                           names_inode({scratch_.fd(), "file"}, identity_of(opened)).answer == Step::Answer::done;
    return {};
  }

  Result<void> try_nameless() {
    const auto opened = sys::open(scratch_.fd(), ".", O_TMPFILE | O_RDWR, 0600);
    if (!opened.ok()) {
      return is_inconclusive(opened.error) ? fail(opened.code(), "openat") : Result<void>{};
    }
    check_.nameless_files = link_nameless(opened.fd.get(), scratch_.fd(), "nameless", Naming::untried).error == 0;
    return {};
  }

  Result<void> try_link() {
    const auto linked = sys::linkat(scratch_.fd(), "file", scratch_.fd(), "link", 0);
    if (!linked.ok()) {
      return is_inconclusive(linked.error) ? fail(linked.code(), "linkat") : Result<void>{};
    }
    check_.exclusive_link = sys::linkat(scratch_.fd(), "file", scratch_.fd(), "link", 0).error == EEXIST;
    return {};
  }

  Result<void> try_rename() {
    const auto made = sys::open(scratch_.fd(), "other", O_CREAT | O_RDWR | O_NOFOLLOW, 0600);
    if (!made.ok()) {
      return fail(made.code(), "openat");
    }
    check_.exclusive_rename = sys::rename_no_replace(scratch_.fd(), "other", "file").error == EEXIST &&
                              sys::rename_no_replace(scratch_.fd(), "other", "renamed").ok();
    return {};
  }

  Result<void> try_locks() {
    const auto trial = sessionlock::try_locks(first_.get(), second_.get(), scratch_.file());
    if (!trial) {
      return tl::unexpected(trial.error());
    }
    check_.flock = trial->flock;
    check_.record_locks = trial->record_locks;
    check_.independent_locks = trial->independent;
    return {};
  }

  Result<void> try_events() {
    const auto listener = sys::inotify_init();
    auto watched = sys::Outcome{-1, listener.error};
    if (listener.ok()) {
      watched = sys::inotify_add_watch(listener.fd.get(), descriptor_link(first_.get()).data(), IN_ATTRIB);
    }
    if (!watched.ok()) {
      check_.inotify_failure = watched.code();
      return {};
    }
    if (const auto gone = sys::unlinkat(scratch_.fd(), "file"); !gone.ok()) {
      return fail(gone.code(), "unlinkat");
    }
    struct ::pollfd ready {
      listener.fd.get(), POLLIN, 0
    };
    const auto polled = sys::poll(&ready, 1, Clock::now() + k_event_patience);
    check_.inotify = polled.ok() && polled.value > 0;
    return {};
  }

  /// Steps are counted by the kernel's tick, or by what the file system can write down, whichever is coarser.
  void try_times() {
    const auto start = Clock::now();
    const auto end = start + k_step_patience;
    std::optional<timespec> last;
    for (int steps = 0; steps < k_steps_wanted && Clock::now() < end;) {
      if (Clock::now() - start > k_tight_time) {
        sleep_until(Clock::now() + std::chrono::microseconds{500});
      }
      struct stat status {};
      if (!sys::touch(first_.get()).ok() || !sys::fstat(first_.get(), status).ok()) {
        return;
      }
      const timespec now = status.st_mtim;
      if (last && (now.tv_sec != last->tv_sec || now.tv_nsec != last->tv_nsec)) {
        const auto step =
            std::chrono::seconds{now.tv_sec - last->tv_sec} + std::chrono::nanoseconds{now.tv_nsec - last->tv_nsec};
        check_.time_step = check_.time_step ? std::min(*check_.time_step, step) : step;
        ++steps;
      }
      last = now;
    }
  }

  const Scratch& scratch_;
  FileSystemCheck& check_;
  sys::Fd first_;
  sys::Fd second_;
};

/// The proof of the pudding. None: it is excluded, guarded and given back as it should be.
std::optional<Error> try_a_lock(const std::filesystem::path& directory) {
  LockManager manager;
  auto lock = manager.try_acquire(directory / "session");
  if (!lock) {
    return lock.error();
  }
  if (auto guarded = lock->guarded([] {}); !guarded) {
    return guarded.error();
  }
  auto released = lock->release();
  return released ? std::nullopt : std::optional(released.error());
}

void judge(FileSystemCheck& check) {
  const auto advise = [&](std::string sentence) { check.advice.push_back(std::move(sentence)); };
  if (check.refusal) {
    check.safety = LockSafety::unsafe;
    const std::string_view words = remedy(check.refusal->code);
    advise(!words.empty() ? std::string(words)
                          : "Keep the locks on a local file system: --lock-directory DIR, SESSIONLOCK_DIRECTORY, or "
                            "ManagerOptions::lock_directory, the same for every program that uses these sessions.");
    return;
  }
  check.safety = LockSafety::safe;
  if (!check.local) {
    check.safety = LockSafety::limited;
    advise(
        "Other hosts may use this file system. They are kept out only as far as it implements exclusive links and "
        "flock; a dead owner on another host is not recognised as dead, and waiters poll.");
  }
  if (!check.record_locks || !check.independent_locks) {
    check.safety = LockSafety::limited;
    advise(
        "Locks carry no witness here. A program that was started under a lock does not keep it when its starter is "
        "killed, and an owner in another container cannot be told to be dead.");
  }
  if (!check.inotify) {
    advise(check.inotify_failure == std::errc::too_many_files_open ||
                   check.inotify_failure == std::errc::no_space_on_device
               ? "Waiters poll, because this user's inotify instances or watches are used up: "
                 "sysctl fs.inotify.max_user_instances, fs.inotify.max_user_watches."
               : "Waiters poll, because the release of a lock raises no event here.");
  }
  if (!check.time_step || *check.time_step >= std::chrono::seconds{1}) {
    advise("Times are coarse here: the age of a lock without an owner is known to a second or worse.");
  }
}

Result<FileSystemCheck> examine(const std::filesystem::path& directory) {
  std::error_code code;
  const auto canonical = sys::canonical(directory, code);
  if (code) {
    return failure(code, "find directory", directory);
  }
  auto scratch = Scratch::make(canonical);
  if (!scratch) {
    return tl::unexpected(std::move(scratch).error());
  }
  sys::FileSystem file_system;
  if (const auto asked = sys::fstatfs(scratch->fd(), file_system); !asked.ok()) {
    return failure(asked.code(), "fstatfs", directory);
  }
  FileSystemCheck check;
  check.directory = canonical;
  check.type = file_system_name(file_system.type);
  check.local = is_local_file_system(file_system.type);
  if (auto examined = Examination(*scratch, check).run(); !examined) {
    return tl::unexpected(std::move(examined).error());
  }
  check.refusal = try_a_lock(scratch->path());
  judge(check);
  return check;
}

}  // namespace

std::string_view to_string(LockSafety safety) {
  switch (safety) {
    case LockSafety::safe:
      return "safe";
    case LockSafety::limited:
      return "limited";
    case LockSafety::unsafe:
      return "unsafe";
  }
  return "unknown";
}

Result<FileSystemCheck> check_file_system(const std::filesystem::path& directory) {
  auto check = examine(directory);
  if (!check && check.error().detail.empty()) {
    check.error().detail = remedy(check.error().code);
  }
  return check;
}

}  // namespace sessionlock
