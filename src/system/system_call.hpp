#pragma once

/// \file
/// How every system call of the library is made. For the files of this room: `errno` is read here.

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <utility>

#include "system/cancellation.hpp"
#include "system/descriptors.hpp"
#include "system/system.hpp"

namespace sessionlock::sys {

inline constexpr int k_interruptions_max = 1000;
inline std::atomic<Interceptor*> g_interceptor{nullptr};

/// Asks the interceptor, makes the call, retries it when a signal interrupted it, and saves errno.
template <class F>
Outcome invoke(CallInfo info, F&& call) {
  const CancellationDisabled disabled;
  for (int attempt = 0;; ++attempt) {
    auto* const interceptor = g_interceptor.load(std::memory_order_acquire);
    Outcome outcome{-1, interceptor != nullptr ? interceptor->before(info) : 0};
    if (outcome.error == 0) {
      outcome.value = call();
      outcome.error = outcome.value < 0 ? errno : 0;
    }
    if (outcome.error != EINTR || attempt >= k_interruptions_max) {
      return outcome;
    }
  }
}

/// Makes a call that returns a descriptor, and registers that.
template <class F>
Opened open_with(const CallInfo& info, F&& call) {
  (void)process_generation();  // a child drops what it inherited before it opens anything of its own
  const Outcome outcome = invoke(info, [&]() -> std::int64_t {
    const Section section;
    return adopt(call());
  });
  return outcome.ok() ? Opened{OpenedAccess::adopt(static_cast<int>(outcome.value)), 0} : Opened{{}, outcome.error};
}

/// As `open_with`, for what has no name.
template <class F>
Opened open_nameless(const CallInfo& info, F&& call) {
  Opened opened = open_with(info, std::forward<F>(call));
  if (opened.ok()) {
    mark_nameless(opened.fd);
  }
  return opened;
}

}  // namespace sessionlock::sys
