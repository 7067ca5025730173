#include <sessionlock/lock_watch.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/inotify.h>

#include "hold/lock_queue.hpp"
#include "process/procfs.hpp"
#include "protocol/inspector.hpp"
#include "protocol/lock_file.hpp"
#include "protocol/session_location.hpp"
#include "verdict/failure.hpp"
#include "waiting/wake_event.hpp"

namespace sessionlock {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint32_t k_events = IN_CREATE | IN_MOVED_TO | IN_DELETE | IN_MOVED_FROM | IN_CLOSE_WRITE | IN_ONLYDIR;
/// Owners beyond these are looked at in turn.
constexpr std::size_t k_owners_max = 256;
/// How often locks are looked at of which no event may tell, and how many at a time.
constexpr std::chrono::seconds k_recheck_interval{1};
constexpr std::size_t k_rechecks_max = 256;
constexpr std::chrono::milliseconds k_polling_interval{250};

/// A lock that was seen.
struct Known {
  FileIdentity file{};
  Inspection inspection{};
  /// Becomes readable when the owner has ended.
  sys::Fd owner{};
  bool announced{false};
  bool death_told{false};
  Clock::time_point since{};
  Clock::time_point looked_at{};
};

bool names_owner(const Inspection& inspection) {
  return inspection.basis != Basis::no_pid && inspection.basis != Basis::not_a_lock &&
         inspection.basis != Basis::unreadable;
}

bool owner_is_gone(const Inspection& inspection) {
  return inspection.owner == OwnerState::dead || inspection.basis == Basis::witness_inherited;
}

bool is_same_lock(const Known& known, const PinnedLock& pinned) {
  // A file that names nobody yet is being written; later it does. An inode's number may be another file's by now.
  return known.file == pinned.file &&
         (!names_owner(known.inspection) || (pinned.content && known.inspection.record == pinned.content->record));
}

class LockWatch {
 public:
  LockWatch(DirectoryPtr directory, const LockWatchOptions& options, const std::function<void(const LockEvent&)>& tell)
      : directory_(std::move(directory)), options_(options), tell_(tell) {}

  Result<void> run() {
    if (const std::error_code muted = bell_.open(); muted) {
      return fail(muted, "eventfd");
    }
    const std::stop_callback on_stop(options_.stop, [this] { bell_.signal(); });
    listen();
    first_ = true;
    if (auto looked = look_through(); !looked) {
      return looked;
    }
    first_ = false;
    auto next_recheck = Clock::now() + interval();
    while (!options_.stop.stop_requested()) {
      if (auto heard = hear(next_recheck); !heard) {
        return heard;
      }
      if (Clock::now() >= next_recheck) {
        if (auto checked = recheck(); !checked) {
          return checked;
        }
        next_recheck = Clock::now() + interval();
      }
    }
    return {};
  }

 private:
  [[nodiscard]] tl::unexpected<Error> fail(const std::error_code& code, std::string operation) const {
    return failure(code, std::move(operation), directory_->path);
  }
  [[nodiscard]] Clock::duration interval() const {
    return inotify_ ? Clock::duration{k_recheck_interval} : k_polling_interval;
  }
  /// Other hosts' doings raise no event here.
  [[nodiscard]] bool must_look_through() const { return !inotify_ || !directory_->traits->local; }

  void listen() {
    auto opened = sys::inotify_init();
    std::error_code why = opened.ok() ? std::error_code{} : opened.code();
    if (opened.ok()) {
      const auto watched =
          sys::inotify_add_watch(opened.fd.get(), descriptor_link(directory_->fd.get()).data(), k_events);
      why = watched.ok() ? std::error_code{} : watched.code();
    }
    if (!why) {
      inotify_ = std::move(opened.fd);
    } else if (options_.degraded) {
      options_.degraded(
          {why, "watch directory", directory_->path, std::nullopt, "it has to be looked through again and again"});
    }
  }

  /// Looks at every lock there is, and at those that were.
  Result<void> look_through() {
    told_ahead_.clear();
    std::vector<std::string> names;
    auto read = for_each_name(*directory_, [&](std::string_view name) {
      if (name.ends_with(options_.suffix)) {
        names.emplace_back(name);
      }
    });
    if (!read) {
      return read;
    }
    for (const auto& [name, lock] : known_) {
      names.push_back(name);
    }
    std::sort(names.begin(), names.end());
    names.erase(std::unique(names.begin(), names.end()), names.end());
    for (const std::string& name : names) {
      look(name);
    }
    return {};
  }

  enum class Seen { lock, nothing, other };

  /// Looks at one lock and tells what is new.
  Seen look(const std::string& name) {
    const Place place{directory_, name};
    auto pinned = pin(place);
    if (!pinned || !pinned->has_value()) {
      lose(name);
      return pinned ? Seen::nothing : Seen::other;  // what is no lock file is not of interest here
    }
    Inspection inspection = judge(**pinned, place, {options_.stale, is_held_here, std::nullopt});
    inspection.session_path = session_path_of(inspection.record, place);
    if (const auto found = known_.find(name); found != known_.end() && !is_same_lock(found->second, **pinned)) {
      lose(name);
    }
    // 1. A (we) reads the file. 2. B, its owner, releases it, and ends. 3. A asks about B, who looks dead.
    const bool has_gone =
        owner_is_gone(inspection) && names_inode(place.view(), (*pinned)->file).answer != Step::Answer::done;
    if (has_gone) {
      if (!known_.contains(name)) {
        ++arrivals_;
        tell_of_short_life(name, inspection.record);
      }
      lose(name);
      return Seen::lock;
    }
    const auto [at, is_new] = known_.try_emplace(name);
    Known& known = at->second;
    if (is_new) {
      ++arrivals_;
      known.since = Clock::now();
    }
    known.file = (*pinned)->file;
    known.inspection = std::move(inspection);
    known.looked_at = Clock::now();
    settle(known);
    return Seen::lock;
  }

  /// Announces a lock once it names somebody, or does not for so long that it will not; and its owner's end.
  void settle(Known& known) {
    const bool is_ready = names_owner(known.inspection) || first_ || Clock::now() - known.since >= k_recheck_interval;
    if (!known.announced && is_ready) {
      known.announced = true;
      known.death_told = owner_is_gone(known.inspection);  // the lock's own words say so
      tell(first_ ? LockEventKind::held : LockEventKind::acquired, known.inspection);
    }
    if (known.announced && !known.death_told && owner_is_gone(known.inspection)) {
      known.death_told = true;
      tell(LockEventKind::owner_died, known.inspection);
    }
    if (known.death_told) {
      forget_owner(known);
    } else if (!known.owner && owners_ < k_owners_max && known.inspection.pid_alive) {
      auto opened = sys::pidfd_open(*known.inspection.record.pid);
      if (opened.ok()) {
        known.owner = std::move(opened.fd);
        ++owners_;
      }
    }
  }

  void forget_owner(Known& known) {
    if (known.owner) {
      known.owner.reset();
      --owners_;
    }
  }

  void lose(const std::string& name) {
    const auto found = known_.find(name);
    if (found == known_.end()) {
      return;
    }
    Known& known = found->second;
    forget_owner(known);
    if (known.announced) {
      if (known.inspection.age) {
        *known.inspection.age += std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - known.looked_at);
      }
      // Who inherited a lock cannot release it; so that, too, was taken away.
      tell(known.death_told ? LockEventKind::reclaimed : LockEventKind::released, known.inspection);
    }
    known_.erase(found);
  }

  /// It came and went before it could be looked at.
  void tell_of_short_life(const std::string& name, const LockRecord& record = {}) {
    Inspection inspection;
    inspection.lock_path = directory_->path_of(name);
    inspection.record = record;
    inspection.session_path = session_path_of(inspection.record, {directory_, name});
    tell(LockEventKind::acquired, inspection);
    tell(LockEventKind::released, inspection);
  }

  void tell(LockEventKind kind, const Inspection& inspection) { tell_({kind, sys::wall_clock(), inspection}); }

  /// Sleeps until something happens or it is time, and looks at what happened to.
  Result<void> hear(Clock::time_point until) {
    std::vector<::pollfd> descriptors{{bell_.fd(), POLLIN, 0}, {inotify_.get(), POLLIN, 0}};
    std::vector<std::string> owners;
    for (const auto& [name, known] : known_) {
      if (known.owner) {
        descriptors.push_back({known.owner.get(), POLLIN, 0});
        owners.push_back(name);
      }
    }
    const auto ready = sys::poll(descriptors.data(), descriptors.size(), until);
    if (!ready.ok()) {
      return fail(ready.code(), "poll");
    }
    if (!bell_.is_usable() || !directory_->fd.is_usable() || (inotify_ && !inotify_.is_usable())) {
      return failure(std::make_error_code(std::errc::bad_file_descriptor), "watch directory", directory_->path,
                     "this program has closed the descriptors of the watch");
    }
    // Owners first: a lock whose owner ended is still there for a moment, if it was not released.
    for (std::size_t i = 0; i < owners.size(); ++i) {
      if (descriptors[i + 2].revents != 0) {
        if (const auto found = known_.find(owners[i]); found != known_.end()) {
          forget_owner(found->second);  // it stays readable
        }
        look(owners[i]);
      }
    }
    return descriptors[1].revents != 0 ? read_events() : Result<void>{};
  }

  Result<void> read_events() {
    alignas(inotify_event) std::array<char, 16384> buffer;  // NOLINT(*-member-init): the kernel fills it
    const auto got = sys::read(inotify_.get(), buffer.data(), buffer.size());
    if (!got.ok()) {
      return got.error == EAGAIN ? Result<void>{} : fail(got.code(), "read events");
    }
    const auto size = static_cast<std::size_t>(got.value);
    for (std::size_t at = 0; at + sizeof(inotify_event) <= size;) {
      inotify_event event{};
      std::memcpy(&event, buffer.data() + at, sizeof event);
      const char* const text = buffer.data() + at + sizeof event;
      const std::string name(text, event.len == 0 ? 0 : ::strnlen(text, event.len));
      at += sizeof event + event.len;
      if ((event.mask & (IN_Q_OVERFLOW | IN_IGNORED)) != 0) {
        if (auto looked = look_through(); !looked) {
          return looked;
        }
      } else if (name.ends_with(options_.suffix)) {
        take_event(name, (event.mask & (IN_CREATE | IN_MOVED_TO)) != 0 && (event.mask & IN_ISDIR) == 0);
      }
    }
    return {};
  }

  /// An event is about the past, a look finds the present: where locks come and go quickly, a look may find one whose
  /// event is yet to come. So that each is told of once, those are counted.
  void take_event(const std::string& name, bool came) {
    const bool was_known = known_.contains(name);
    const bool was_told = came && told_ahead_.contains(name);
    if (was_told && --told_ahead_[name] == 0) {
      told_ahead_.erase(name);
    }
    const bool is_due = came && !was_told;
    arrivals_ = 0;
    if (look(name) == Seen::nothing && is_due && !was_known && arrivals_ == 0) {
      tell_of_short_life(name);
    }
    if (const std::size_t expected = is_due ? 1 : 0; arrivals_ > expected) {
      told_ahead_[name] += arrivals_ - expected;
    }
  }

  /// What no event may have told of. The removal of a directory that is held open is among it.
  Result<void> recheck() {
    if (directory_->is_removed()) {
      return fail(std::make_error_code(std::errc::no_such_file_or_directory), "watch directory");
    }
    if (must_look_through()) {
      return look_through();
    }
    std::vector<std::string> names;
    auto at = known_.upper_bound(last_checked_);
    for (std::size_t seen = 0; seen < known_.size() && names.size() < k_rechecks_max; ++seen, ++at) {
      if (at == known_.end()) {
        at = known_.begin();
      }
      if (!at->second.owner && !(at->second.death_told && at->second.inspection.removable)) {
        names.push_back(at->first);
      }
      last_checked_ = at->first;
    }
    for (const std::string& name : names) {
      look(name);
    }
    return {};
  }

  const DirectoryPtr directory_;
  const LockWatchOptions& options_;
  const std::function<void(const LockEvent&)>& tell_;
  WakeEvent bell_;
  sys::Fd inotify_;
  std::map<std::string, Known, std::less<>> known_;
  std::size_t owners_{0};
  /// Locks found by the look under way that were not known.
  std::size_t arrivals_{0};
  /// By name, locks that were told of before their events came.
  std::map<std::string, std::size_t, std::less<>> told_ahead_;
  std::string last_checked_;
  bool first_{false};
};

}  // namespace

std::string_view to_string(LockEventKind kind) {
  switch (kind) {
    case LockEventKind::held:
      return "held";
    case LockEventKind::acquired:
      return "acquired";
    case LockEventKind::released:
      return "released";
    case LockEventKind::reclaimed:
      return "reclaimed";
    case LockEventKind::owner_died:
      return "owner-died";
  }
  return "unknown";
}

Result<void> watch_locks(const std::filesystem::path& directory, const LockWatchOptions& options,
                         const std::function<void(const LockEvent&)>& tell) {
  if (directory.empty() || options.suffix.empty()) {
    return failure(
        Errc::invalid_argument, "watch directory", directory,
        directory.empty() ? "no directory is named" : "without a suffix every file would be taken for a lock");
  }
  auto opened = open_directory(directory.native());
  if (!opened) {
    return tl::unexpected(std::move(opened).error());
  }
  return LockWatch(std::move(*opened), options, tell).run();
}

}  // namespace sessionlock
