#pragma once

/// \file
/// A mutex whose use clang checks (`-Wthread-safety`): what it guards says so (`GUARDED_BY`), and so does a function
/// that wants it locked (`REQUIRES`) or must not be called with it locked (`EXCLUDES`). GCC sees ordinary classes.

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "system/cancellation.hpp"

#if defined(__clang__)
#define SESSIONLOCK_THREAD_SAFETY(...) __attribute__((__VA_ARGS__))
#else
#define SESSIONLOCK_THREAD_SAFETY(...)
#endif
#define CAPABILITY(name) SESSIONLOCK_THREAD_SAFETY(capability(name))
#define SCOPED_CAPABILITY SESSIONLOCK_THREAD_SAFETY(scoped_lockable)
#define GUARDED_BY(mutex) SESSIONLOCK_THREAD_SAFETY(guarded_by(mutex))
#define REQUIRES(...) SESSIONLOCK_THREAD_SAFETY(requires_capability(__VA_ARGS__))
#define EXCLUDES(...) SESSIONLOCK_THREAD_SAFETY(locks_excluded(__VA_ARGS__))
#define ACQUIRE(...) SESSIONLOCK_THREAD_SAFETY(acquire_capability(__VA_ARGS__))
#define RELEASE(...) SESSIONLOCK_THREAD_SAFETY(release_capability(__VA_ARGS__))

namespace sessionlock {

class CAPABILITY("mutex") Mutex {
 public:
  constexpr Mutex() noexcept = default;

 private:
  friend class MutexLock;
  std::mutex mutex_;
};

/// Locks a mutex for a scope; may unlock it in between.
class SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) ACQUIRE(mutex) : lock_(mutex.mutex_) {}
  ~MutexLock() RELEASE() = default;
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;
  void lock() ACQUIRE() { lock_.lock(); }
  void unlock() RELEASE() { lock_.unlock(); }

 private:
  friend class Condition;
  std::unique_lock<std::mutex> lock_;
};

/// Something to wait for under a mutex. Wakes for no reason now and then, as std::condition_variable does. A thread
/// that waits cannot be cancelled.
class Condition {
 public:
  void notify_one() noexcept { condition_.notify_one(); }
  void notify_all() noexcept { condition_.notify_all(); }
  void wait(MutexLock& lock) {
    const sys::CancellationDisabled disabled;
    condition_.wait(lock.lock_);
  }
  void wait_until(MutexLock& lock, std::chrono::steady_clock::time_point time) {
    const sys::CancellationDisabled disabled;
    condition_.wait_until(lock.lock_, time);
  }

 private:
  std::condition_variable condition_;
};

}  // namespace sessionlock
