#pragma once

/// \file
/// Threads that are cancelled (pthread_cancel(3)).

#include <pthread.h>

namespace sessionlock::sys {

/// While it lives, a cancellation of this thread only becomes pending: it takes effect at the caller's next
/// cancellation point after the library has returned. glibc carries a cancellation out as an exception that nobody may
/// swallow, which would end the process in a function that is `noexcept`, and leave half-done what is not written for
/// it.
///
/// INVARIANT: no cancellation point (pthreads(7)) is reached inside the library without one of these. Those are system
/// calls, sleeps, waits for other threads, and what Boost does to files. May be nested. Async-signal-safe.
class CancellationDisabled {
 public:
  CancellationDisabled() noexcept { ::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before_); }
  ~CancellationDisabled() { ::pthread_setcancelstate(before_, nullptr); }
  CancellationDisabled(const CancellationDisabled&) = delete;
  CancellationDisabled& operator=(const CancellationDisabled&) = delete;

 private:
  int before_{PTHREAD_CANCEL_ENABLE};
};

}  // namespace sessionlock::sys
