#include "hold/forced_release.hpp"

#include <chrono>
#include <optional>
#include <string>
#include <utility>

#include <fmt/core.h>

#include "hold/lock_queue.hpp"
#include "process/flock_holder.hpp"
#include "protocol/inspector.hpp"
#include "protocol/lock_file.hpp"
#include "protocol/reclaim.hpp"
#include "system/deadline.hpp"
#include "verdict/explanation.hpp"
#include "verdict/failure.hpp"

namespace sessionlock {
namespace {

/// A process that reclaims or releases has the `flock` for a moment; only a guarded write takes longer.
constexpr std::chrono::milliseconds k_force_timeout{250};

/// Why this is not the acquisition that an operator named; empty if it is.
std::string why_not_named(const Inspection& lock, std::string_view lock_id_or_pid) {
  const LockRecord& record = lock.record;
  if (record.lock_id) {
    return *record.lock_id == lock_id_or_pid ? ""
                                             : fmt::format("the lock is not that acquisition but {}", *record.lock_id);
  }
  const auto pid = named_pid(lock);
  if (!pid) {
    return "the lock names neither an acquisition nor a pid";
  }
  return std::to_string(*pid) == lock_id_or_pid ? "" : fmt::format("the lock has no lock id, and its pid is {}", *pid);
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
      return no_lock();
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
    return *ended == Reclaim::busy ? Result<std::optional<Inspection>>(std::nullopt) : no_lock();
  }

  [[nodiscard]] Error busy() const {
    const auto pid = flock_holder(file_);
    return {Errc::locked, "release", location_.lock.path(), inspection_,
            pid ? fmt::format("a guarded write is under way; pid {} would have to be killed", *pid)
                : "a guarded write is under way"};
  }

 private:
  [[nodiscard]] tl::unexpected<Error> no_lock() const {
    return failure(Errc::lost, "release", location_.lock.path(), "there is no lock");
  }
  Result<bool> judge_and_check(const PinnedLock& lock) {
    // Age is no proof: without force only what is provably gone goes.
    inspection_ =
        judge(lock, location_.lock, {StalePolicy{.aged_unverified = AgedUnverified::keep}, is_held_here, std::nullopt});
    inspection_.session_path = location_.session.path();
    if (inspection_.basis == Basis::not_a_lock) {
      return failure(Errc::not_a_lock_file, "release", location_.lock.path(), std::string(not_a_lock_words()));
    }
    if (inspection_.cause) {
      std::string detail = "the lock cannot be read";
      detail += inspection_.denied_by ? "; " + denied_words(*inspection_.denied_by) : "";
      return tl::unexpected(Error{inspection_.cause, "release", location_.lock.path(), inspection_, std::move(detail)});
    }
    if (auto why_not = why_not_named(inspection_, name_); !why_not.empty()) {
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

Result<Inspection> force_release(const SessionLocation& location, std::string_view lock_id_or_pid, bool force) {
  ForcedRelease release(location, lock_id_or_pid, force);
  Result<std::optional<Inspection>> attempt;
  retry_until(std::chrono::steady_clock::now() + k_force_timeout, [&] {
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

}  // namespace sessionlock
