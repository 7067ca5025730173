#pragma once

/// \file
/// All of sessionlock: one writer at a time for a session file.
///
/// A session is a file that one program at a time appends to, a transcript as a rule. The right to write it is a JSON
/// lock file beside it, `<session>.lock`. Whoever finds one judges its owner: a lock whose owner is provably gone is
/// taken over at once; a lock whose owner may be alive is never taken away silently.
///
/// Calling sequence:
///
///     LockManager manager;
///     auto lock = manager.acquire("run.jsonl");           // waits up to a minute
///     if (!lock) { … lock.error().message() … }           // who has it, and why that lock is not stale
///     auto transcript = Transcript::open(*lock);
///     transcript->append(R"({"event":"start"})");          // whole, under the lock, or not at all
///     lock->release();                                     // or leave it to the destructor
///
/// A thread that is cancelled (pthread_cancel(3)) inside the library is cancelled when the call has returned.
///
/// What it does not protect against: programs that write the session without the lock, or delete lock files without
/// this protocol (that is noticed, as `Errc::lost`). It is no lease: a stopped owner keeps its lock. On a network file
/// system two hosts are arbitrated only as far as that file system implements exclusive link and `flock`.

#include <sessionlock/counters.hpp>
#include <sessionlock/error.hpp>
#include <sessionlock/event.hpp>
#include <sessionlock/file_system_check.hpp>
#include <sessionlock/lock_manager.hpp>
#include <sessionlock/lock_record.hpp>
#include <sessionlock/lock_watch.hpp>
#include <sessionlock/options.hpp>
#include <sessionlock/pid_file.hpp>
#include <sessionlock/pid_record.hpp>
#include <sessionlock/process_identity.hpp>
#include <sessionlock/process_signal.hpp>
#include <sessionlock/sentinel.hpp>
#include <sessionlock/session_lock.hpp>
#include <sessionlock/spawn_gate.hpp>
#include <sessionlock/staleness.hpp>
#include <sessionlock/sweep.hpp>
#include <sessionlock/transcript.hpp>
