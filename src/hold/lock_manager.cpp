#include <sessionlock/lock_manager.hpp>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>

#include <fcntl.h>
#include <unistd.h>

#include <fmt/core.h>
#include <boost/filesystem/operations.hpp>

#include "hold/acquisition.hpp"
#include "hold/hold.hpp"
#include "hold/lock_queue.hpp"
#include "hold/signal_cleanup.hpp"
#include "hold/watchdog.hpp"
#include "process/flock_holder.hpp"
#include "protocol/inspector.hpp"
#include "protocol/lock_directory.hpp"
#include "protocol/reclaim.hpp"
#include "system/cancellation.hpp"
#include "verdict/failure.hpp"

namespace sessionlock {
namespace {

using std::chrono::milliseconds;

/// A reclaimer or a releaser is done in a moment; only a guarded write takes longer.
constexpr milliseconds k_force_patience{250};

/// Decimal digits and nothing else.
std::optional<std::int64_t> parse_digits(std::string_view text) {
  std::int64_t value = 0;
  const bool digits = !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  return digits && parsed.ec == std::errc{} ? std::optional(value) : std::nullopt;
}

void read_environment(const char* name, milliseconds& duration) {
  const char* text = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): as any program that reads its environment
  if (const auto value = text != nullptr ? parse_digits(text) : std::nullopt) {
    duration = milliseconds{*value};
  }
}

tl::unexpected<Error> no_lock(const std::filesystem::path& path, std::string operation) {
  return failure(Errc::lost, std::move(operation), path, "there is no lock");
}

/// Why nothing could be created in a directory: of one that does not exist, in the nearest above it that does.
std::error_code obstacle_in(std::filesystem::path directory) {
  while (true) {
    const sys::Outcome allowed = sys::faccessat(AT_FDCWD, directory.c_str(), W_OK | X_OK);
    const bool is_missing = allowed.error == ENOENT && directory.has_relative_path();
    if (!is_missing) {
      return allowed.ok() ? std::error_code{} : allowed.code();
    }
    directory = directory.parent_path();
  }
}

/// Without a working directory, which can be removed, a path stays as it is.
std::filesystem::path absolute_if_possible(const std::filesystem::path& path) {
  std::error_code none;
  auto absolute = std::filesystem::absolute(path, none);
  return none ? path : absolute;
}

/// Where the lock of a session would be whose directory, or that of its lock, does not exist.
Inspection free_without_directory(const std::filesystem::path& session, const std::filesystem::path& lock_directory) {
  const sys::CancellationDisabled disabled;
  boost::system::error_code ignored;
  const auto absolute = absolute_if_possible(session);  // of a relative path Boost makes none
  const auto canonical = boost::filesystem::weakly_canonical(boost::filesystem::path(absolute.native()), ignored);
  Inspection inspection;
  inspection.session_path = ignored ? absolute : std::filesystem::path(canonical.native());
  inspection.lock_path =
      lock_directory.empty()
          ? inspection.session_path.parent_path() / lock_name_beside(inspection.session_path.filename().native())
          : absolute_if_possible(lock_directory) / lock_name_in_directory(inspection.session_path);
  inspection.cause = obstacle_in(inspection.lock_path.parent_path());
  return inspection;
}

/// Why this is not the acquisition that an operator named; empty if it is.
std::string why_not_named(const LockRecord& record, std::string_view lock_id_or_pid) {
  if (record.lock_id) {
    return *record.lock_id == lock_id_or_pid ? ""
                                             : fmt::format("the lock is not that acquisition but {}", *record.lock_id);
  }
  if (!record.pid) {
    return "the lock names neither an acquisition nor a pid";
  }
  return std::to_string(*record.pid) == lock_id_or_pid
             ? ""
             : fmt::format("the lock has no lock id, and its pid is {}", *record.pid);
}

/// One removal by force, and how it went.
class ForcedRelease {
 public:
  ForcedRelease(const SessionLocation& location, std::string_view name, bool force)
      : location_(location), name_(name), force_(force) {}

  /// None: the lock is busy.
  Result<std::optional<Inspection>> attempt() {
    auto pinned = pin(location_.lock);
    if (!pinned) {
      return tl::unexpected(std::move(pinned).error());
    }
    if (!pinned->has_value()) {
      return no_lock(location_.lock.path(), "release");
    }
    PinnedLock& lock = **pinned;
    file_ = lock.file;
    // Refuse before locking anything: whoever is refused must not delay the owner.
    if (auto allowed = judge_and_check(lock); !allowed) {
      return tl::unexpected(std::move(allowed).error());
    }
    auto ended = reclaim(location_.lock, lock, [&] { return judge_and_check(lock); });
    if (!ended) {
      return tl::unexpected(std::move(ended).error());
    }
    if (*ended == Reclaim::done) {
      inspection_.removed = true;
      return inspection_;
    }
    return *ended == Reclaim::busy ? Result<std::optional<Inspection>>(std::nullopt)
                                   : no_lock(location_.lock.path(), "release");
  }

  [[nodiscard]] Error busy() const {
    const auto pid = flock_holder(file_);
    return {Errc::locked, "release", location_.lock.path(), inspection_,
            pid ? fmt::format("a guarded write is under way; pid {} would have to be killed", *pid)
                : "a guarded write is under way"};
  }

 private:
  Result<bool> judge_and_check(const PinnedLock& lock) {
    // Age is no proof: without force only what is provably gone goes.
    inspection_ =
        judge(lock, location_.lock, {StalePolicy{.aged_unverified = AgedUnverified::keep}, is_held_here, std::nullopt});
    inspection_.session_path = location_.session.path();
    if (inspection_.cause) {
      return tl::unexpected(
          Error{inspection_.cause, "release", location_.lock.path(), inspection_, "the lock cannot be read"});
    }
    if (auto why_not = why_not_named(lock.record, name_); !why_not.empty()) {
      return tl::unexpected(Error{Errc::lost, "release", location_.lock.path(), inspection_, std::move(why_not)});
    }
    if (!force_ && !inspection_.removable) {
      return tl::unexpected(Error{Errc::locked, "release", location_.lock.path(), inspection_,
                                  "its owner may be alive; force takes it away all the same"});
    }
    return true;
  }

  const SessionLocation& location_;
  std::string_view name_;
  bool force_;
  FileIdentity file_{};
  Inspection inspection_{};
};

}  // namespace

AcquireOptions AcquireOptions::from_environment() {
  AcquireOptions options;
  read_environment("SESSIONLOCK_ACQUIRE_TIMEOUT_MS", options.timeout);
  read_environment("SESSIONLOCK_STALE_MS", options.stale.stale_after);
  read_environment("SESSIONLOCK_MAX_HOLD_MS", options.max_hold);
  return options;
}

milliseconds max_hold_for(milliseconds timeout, milliseconds grace, milliseconds min) {
  if (timeout >= k_max_hold_max || grace >= k_max_hold_max) {
    return k_max_hold_max;
  }
  const milliseconds lowest{-k_max_hold_max};  // keeps the sum from overflowing
  return std::min(std::max(min, std::max(timeout, lowest) + std::max(grace, lowest)), k_max_hold_max);
}

std::string_view to_string(EventKind kind) {
  switch (kind) {
    case EventKind::acquired:
      return "acquired";
    case EventKind::contended:
      return "contended";
    case EventKind::waiting:
      return "waiting";
    case EventKind::released:
      return "released";
    case EventKind::lost:
      return "lost";
    case EventKind::overrun:
      return "overrun";
    case EventKind::release_failed:
      return "release-failed";
    case EventKind::degraded:
      return "degraded";
  }
  return "?";
}

LockManager::LockManager(ManagerOptions options) {
  if (!options.lock_directory.empty()) {
    // Of two acquires by this manager with a change of directory between them, both mean one directory of locks.
    options.lock_directory = absolute_if_possible(options.lock_directory);
  }
  options_ = std::make_shared<const ManagerOptions>(std::move(options));
  if (!options_->cleanup_signals.empty()) {
    install_signal_cleanup(options_->cleanup_signals);
  }
  if (options_->watchdog_interval > milliseconds{0}) {
    watchdog_ = std::make_unique<Watchdog>(options_);
  }
}
LockManager::~LockManager() = default;
LockManager::LockManager(LockManager&&) noexcept = default;
LockManager& LockManager::operator=(LockManager&&) noexcept = default;

Result<SessionLock> LockManager::acquire(const std::filesystem::path& session, const AcquireOptions& options) {
  retry_failed_releases();
  return Acquisition(options_, session, options).acquire();
}

Result<SessionLock> LockManager::try_acquire(const std::filesystem::path& session, const AcquireOptions& options) {
  AcquireOptions once = options;
  once.timeout = milliseconds{0};
  return acquire(session, once);
}

Result<Inspection> LockManager::inspect(const std::filesystem::path& session, const StalePolicy& policy) const {
  retry_failed_releases();
  if (session.empty()) {
    return failure(Errc::invalid_argument, "inspect", session, "the session path is empty");
  }
  // Looking at an aliased session hurts nobody; acquiring it is what is refused.
  auto location = locate(session, {options_->lock_directory, false, true});
  if (!location) {
    if (location.error().code == std::errc::no_such_file_or_directory) {
      return free_without_directory(session, options_->lock_directory);
    }
    return tl::unexpected(std::move(location).error());
  }
  auto pinned = pin(location->lock);
  if (!pinned) {
    return tl::unexpected(std::move(pinned).error());
  }
  Inspection inspection = pinned->has_value() ? judge(**pinned, location->lock, {policy, is_held_here, std::nullopt})
                                              : free_lock(location->lock);
  inspection.session_path = location->session.path();
  if (inspection.state == LockState::free || inspection.removable) {
    const sys::Outcome allowed = sys::faccessat(location->lock.directory->fd.get(), ".", W_OK | X_OK);
    inspection.cause = allowed.ok() ? std::error_code{} : allowed.code();
  }
  return inspection;
}

Result<void> LockManager::wait_until_free(const std::filesystem::path& session, const AcquireOptions& options) {
  retry_failed_releases();
  return Acquisition(options_, session, options).wait_until_free();
}

Result<SessionLock> LockManager::join(const std::filesystem::path& session, std::string_view lock_id) {
  retry_failed_releases();
  auto location = locate(session, {options_->lock_directory, false, true});
  if (!location) {
    return tl::unexpected(std::move(location).error());
  }
  auto pinned = pin(location->lock);
  if (!pinned) {
    return tl::unexpected(std::move(pinned).error());
  }
  if (!pinned->has_value()) {
    return no_lock(location->lock.path(), "join");
  }
  PinnedLock& lock = **pinned;
  if (lock.unreadable) {
    return failure(lock.unreadable, "join", location->lock.path());
  }
  if (!lock.record.lock_id || *lock.record.lock_id != lock_id) {
    return failure(Errc::lost, "join", location->lock.path(), "the lock is not that acquisition any more");
  }
  HoldSetup setup;
  setup.location = std::move(*location);
  setup.file = {std::move(lock.fd), lock.file};
  setup.record = std::make_unique<const LockRecord>(std::move(lock.record));
  setup.options = options_;
  setup.joined = true;
  auto share = std::make_shared<LockShare>();
  share->hold = std::make_shared<Hold>(std::move(setup));
  return SessionLockAccess::make(std::move(share));
}

Result<Inspection> LockManager::force_release(const std::filesystem::path& session, std::string_view lock_id_or_pid,
                                              bool force) {
  retry_failed_releases();
  auto location = locate(session, {options_->lock_directory, false, true});
  if (!location) {
    return tl::unexpected(std::move(location).error());
  }
  ForcedRelease release(*location, lock_id_or_pid, force);
  Result<std::optional<Inspection>> attempt;
  retry_until(std::chrono::steady_clock::now() + k_force_patience, [&] {
    attempt = release.attempt();
    return !attempt || attempt->has_value();
  });
  if (!attempt) {
    return tl::unexpected(std::move(attempt).error());
  }
  if (!attempt->has_value()) {
    return tl::unexpected(release.busy());
  }
  return std::move(**attempt);
}

std::vector<HeldLock> LockManager::held() const {
  retry_failed_releases();
  return list_holds();
}

}  // namespace sessionlock
