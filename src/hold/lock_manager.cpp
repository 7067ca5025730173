#include <sessionlock/lock_manager.hpp>

#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include "hold/acquisition.hpp"
#include "hold/forced_release.hpp"
#include "hold/hold.hpp"
#include "hold/lock_queue.hpp"
#include "hold/lock_share.hpp"
#include "hold/signal_cleanup.hpp"
#include "hold/watchdog.hpp"
#include "protocol/inspector.hpp"
#include "protocol/obstacle.hpp"
#include "protocol/permissions.hpp"
#include "protocol/session_location.hpp"
#include "system/paths.hpp"
#include "verdict/explanation.hpp"
#include "verdict/failure.hpp"

namespace sessionlock {
namespace {

using std::chrono::milliseconds;

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

/// What there is to say about a session without acquiring it.
struct View {
  Inspection inspection{};
  /// What an acquire would fail with, whatever the lock's owner does.
  std::optional<Error> obstacle{};
};

/// Of a session whose directory, or that of its lock, does not exist.
Result<View> view_without_directory(const std::filesystem::path& session, const std::filesystem::path& lock_directory) {
  std::error_code ignored;
  const auto absolute = absolute_if_possible(session);  // of a relative path it makes none
  const auto canonical = sys::weakly_canonical(absolute, ignored);
  View view;
  Inspection& inspection = view.inspection;
  inspection.session_path = ignored ? absolute : canonical;
  inspection.lock_path =
      lock_directory.empty()
          ? inspection.session_path.parent_path() / lock_name_beside(inspection.session_path.filename().native())
          : absolute_if_possible(lock_directory) / lock_name_in_directory(inspection.session_path);
  if (auto checked = check_lock_name(inspection.lock_path); !checked) {
    return tl::unexpected(std::move(checked).error());
  }
  const auto directory = inspection.lock_path.parent_path();
  if (const std::error_code code = obstacle_in(directory)) {
    view.obstacle = Error{code, "create directories", directory, {}, {}};
  }
  return view;
}

Result<View> view(const std::filesystem::path& session, LocateOptions naming, const StalePolicy& policy) {
  auto location = locate(session, naming);
  View view;
  if (!location && location.error().code == Errc::aliased_session) {
    // Inspecting an aliased session hurts no writer; acquiring it is what is refused.
    view.obstacle = std::move(location).error();
    naming.allow_hard_links = true;
    location = locate(session, naming);
  }
  if (!location) {
    if (location.error().code == std::errc::no_such_file_or_directory) {
      return view_without_directory(session, naming.lock_directory);
    }
    return tl::unexpected(std::move(location).error());
  }
  auto pinned = pin(location->lock);
  if (!pinned) {
    return tl::unexpected(std::move(pinned).error());
  }
  view.inspection = pinned->has_value() ? judge(**pinned, location->lock, {policy, is_held_here, std::nullopt})
                                        : free_lock(location->lock);
  view.inspection.session_path = location->session.path();
  if (!view.obstacle) {
    view.obstacle = creation_obstacle(location->lock);  // an acquire makes its own lock before it looks for another
  }
  if (!view.obstacle && view.inspection.removable) {
    view.obstacle = removal_obstacle(location->lock, **pinned);
  }
  return view;
}

}  // namespace

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

Result<Inspection> LockManager::inspect(const std::filesystem::path& session, const AcquireOptions& options) const {
  if (session.empty()) {
    return failure(Errc::invalid_argument, "inspect", session, "the session path is empty");
  }
  auto seen = view(session, {options_->lock_directory, false, options.allow_hard_links}, options.stale);
  if (!seen) {
    return tl::unexpected(std::move(seen).error());
  }
  if (seen->obstacle) {
    note_obstacle(seen->inspection, *seen->obstacle);
  }
  return std::move(seen->inspection);
}

Result<void> LockManager::wait_until_free(const std::filesystem::path& session, const AcquireOptions& options) {
  retry_failed_releases();
  const LocateOptions naming{options_->lock_directory, false, options.allow_hard_links};
  // Before, because an acquire would not wait either; and after, because whether a lock may be removed is asked only
  // once its owner is gone.
  if (auto seen = view(session, naming, options.stale); seen && seen->obstacle) {
    return tl::unexpected(std::move(*seen->obstacle));
  }
  if (auto waited = Acquisition(options_, session, options).wait_until_free(); !waited) {
    return waited;
  }
  auto seen = view(session, naming, options.stale);
  if (!seen) {
    return tl::unexpected(std::move(seen).error());
  }
  return seen->obstacle ? tl::unexpected(std::move(*seen->obstacle)) : Result<void>{};
}

Result<SessionLock> LockManager::join(const std::filesystem::path& session, std::string_view lock_id) {
  if (auto valid = check_mode(options_->mode, "join", session); !valid) {
    return tl::unexpected(std::move(valid).error());
  }
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
    return failure(Errc::lost, "join", location->lock.path(), "there is no lock");
  }
  PinnedLock& lock = **pinned;
  if (!lock.content) {
    return failure(lock.content.error(), "join", location->lock.path(),
                   lock.denied_by ? denied_words(*lock.denied_by) : std::string{});
  }
  LockRecord& record = lock.content->record;
  if (!record.lock_id || *record.lock_id != lock_id) {
    return failure(Errc::lost, "join", location->lock.path(), "the lock is not that acquisition any more");
  }
  auto share = std::make_shared<LockShare>();
  share->hold = std::make_shared<Hold>(HoldParams{.options = options_, .joined = true});
  share->hold->begin(
      {.location = std::move(*location), .file = {std::move(lock.fd), lock.file}, .record = std::move(record)});
  return SessionLockAccess::make(std::move(share));
}

Result<Inspection> LockManager::force_release(const std::filesystem::path& session, std::string_view lock_id_or_pid,
                                              bool force) {
  retry_failed_releases();
  auto location = locate(session, {options_->lock_directory, false, true});
  if (!location) {
    return tl::unexpected(std::move(location).error());
  }
  return sessionlock::force_release(*location, lock_id_or_pid, force);
}

std::vector<HeldLock> LockManager::held() const {
  return list_holds();
}

}  // namespace sessionlock
