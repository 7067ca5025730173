// A module that brings a copy of the library of its own into the process that loads it, as a plugin may.

#include "second_copy.hpp"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string_view>
#include <utility>

#include <sessionlock/lock_manager.hpp>
#include <sessionlock/transcript.hpp>

namespace {

using namespace sessionlock;
using sessionlock::test::CopyAnswer;

template <class T>
CopyAnswer answer_of(const Result<T>& result) {
  CopyAnswer answer;
  if (!result) {
    const Error& error = result.error();
    answer.code = error.code.category() == error_category() ? error.code.value() : -1;
    std::snprintf(answer.words.data(), answer.words.size(), "%s", error.message().c_str());
  }
  return answer;
}

void* acquire(const char* session, int timeout_ms, int grace_ms, CopyAnswer* answer) {
  AcquireOptions options;
  options.timeout = std::chrono::milliseconds{timeout_ms};
  options.stale.malformed_grace = std::chrono::milliseconds{grace_ms};
  auto lock = LockManager(ManagerOptions{.release_at_exit = false}).acquire(session, options);
  *answer = answer_of(lock);
  return lock ? std::make_unique<SessionLock>(std::move(*lock)).release() : nullptr;
}

void append(void* lock, const char* record, void (*around)(void*, bool), void* context, CopyAnswer* answer) {
  SessionLock& held = *static_cast<SessionLock*>(lock);
  *answer = answer_of(held.guarded([&]() -> Result<void> {
    around(context, true);
    const auto appended = Transcript::open(held).and_then(
        [&](Transcript transcript) { return transcript.append(std::string_view(record)); });
    around(context, false);
    return appended ? Result<void>{} : tl::unexpected(appended.error());
  }));
}

const char* lock_id(void* lock) {
  const auto& id = static_cast<SessionLock*>(lock)->record().lock_id;
  return id ? id->c_str() : "";
}

void release(void* lock, CopyAnswer* answer) {
  const std::unique_ptr<SessionLock> owned(static_cast<SessionLock*>(lock));
  *answer = answer_of(owned->release());
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const sessionlock::test::CopyFunctions second_copy_functions;
extern "C" const sessionlock::test::CopyFunctions second_copy_functions{acquire, append, lock_id, release};

/// Acquires a lock that is released when the signal comes, and never otherwise.
extern "C" __attribute__((visibility("default"))) bool second_copy_hold_until(int signal, const char* session) {
  ManagerOptions options;
  options.cleanup_signals = {signal};
  auto lock = LockManager(options).try_acquire(session);
  return lock && std::make_unique<SessionLock>(std::move(*lock)).release() != nullptr;
}
