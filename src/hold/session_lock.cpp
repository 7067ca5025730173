#include <sessionlock/session_lock.hpp>

#include <utility>

#include "hold/hold.hpp"
#include "hold/lock_queue.hpp"
#include "hold/lock_share.hpp"
#include "system/lasting.hpp"

namespace sessionlock {
namespace {

/// What a handle that owns nothing shows. Never destroyed: handles may outlive static objects.
template <class T>
const T& nothing() {
  static constinit Lasting<T> value;
  return value.get();
}

/// A release that nobody waits for the answer of.
void release_quietly(LockShare* share) noexcept {
  if (share == nullptr) {
    return;
  }
  Hold& hold = *share->hold;
  std::optional<Error> why;
  try {
    auto released = share->release();
    if (released || released.error().code == Errc::lost) {
      return;
    }
    why = std::move(released).error();
  } catch (...) {  // no memory for words; the share is still there
    if (hold.is_inherited()) {
      return;
    }
  }
  abandon(*share, why);
}

}  // namespace

namespace detail {

GuardScope::~GuardScope() {
  if (hold_) {
    hold_->leave_guard();
  }
}

}  // namespace detail

SessionLock::SessionLock() noexcept = default;
SessionLock::SessionLock(std::shared_ptr<LockShare> share) noexcept : share_(std::move(share)) {}
SessionLock::SessionLock(SessionLock&& other) noexcept = default;

SessionLock& SessionLock::operator=(SessionLock&& other) noexcept {
  if (this != &other) {
    const auto previous = std::exchange(share_, std::move(other.share_));
    release_quietly(previous.get());
  }
  return *this;
}

SessionLock::~SessionLock() {
  release_quietly(share_.get());
}

Result<void> SessionLock::release() {
  retry_failed_releases();
  return share_ ? share_->release() : Result<void>{};
}

Result<void> SessionLock::verify() const {
  if (!share_ || share_->released.load()) {
    return owns_nothing(share_.get());
  }
  return share_->hold->verify();
}

Result<detail::GuardScope> SessionLock::enter_guard() const {
  if (!share_) {
    return owns_nothing(nullptr);
  }
  return share_->enter_guard();
}

bool SessionLock::owns() const noexcept {
  return share_ && !share_->released.load() && !share_->hold->is_inherited() && !share_->hold->has_ended();
}

const std::optional<Inspection>& SessionLock::reclaimed_from() const {
  const auto* reclaimed = share_ && share_->is_told ? share_->hold->reclaimed_from() : nullptr;
  return reclaimed != nullptr ? *reclaimed : nothing<std::optional<Inspection>>();
}

const std::filesystem::path& SessionLock::session_path() const {
  return share_ ? share_->hold->session_path() : nothing<std::filesystem::path>();
}

const std::filesystem::path& SessionLock::lock_path() const {
  return share_ ? share_->hold->lock_path() : nothing<std::filesystem::path>();
}

const LockRecord& SessionLock::record() const {
  return share_ ? share_->hold->record() : nothing<LockRecord>();
}

Result<pid_t> SessionLock::spawn_with(const char* file, char* const argv[], char* const envp[]) const {
  retry_failed_releases();
  if (!share_ || share_->released.load()) {
    return owns_nothing(share_.get());
  }
  return share_->hold->spawn(file, argv, envp);
}

}  // namespace sessionlock
