// A module that brings a copy of the library of its own into the process that loads it, as a plugin may.

#include <memory>

#include <sessionlock/lock_manager.hpp>

namespace {

sessionlock::SessionLock* acquire(const char* session, std::chrono::milliseconds timeout) {
  sessionlock::AcquireOptions options;
  options.timeout = timeout;
  auto lock = sessionlock::LockManager().acquire(session, options);
  return lock ? std::make_unique<sessionlock::SessionLock>(std::move(*lock)).release() : nullptr;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void* second_copy_acquire(const char* session, int timeout_ms) {
  return acquire(session, std::chrono::milliseconds{timeout_ms});
}

/// Acquires a lock that is released when the signal comes, and never otherwise.
extern "C" __attribute__((visibility("default"))) bool second_copy_hold_until(int signal, const char* session) {
  sessionlock::ManagerOptions options;
  options.cleanup_signals = {signal};
  auto lock = sessionlock::LockManager(options).try_acquire(session);
  return lock && std::make_unique<sessionlock::SessionLock>(std::move(*lock)).release() != nullptr;
}

extern "C" __attribute__((visibility("default"))) bool second_copy_release(void* lock) {
  const std::unique_ptr<sessionlock::SessionLock> owned(static_cast<sessionlock::SessionLock*>(lock));
  return owned && owned->release().has_value();
}
