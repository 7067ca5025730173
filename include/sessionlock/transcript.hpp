#pragma once

/// \file
/// Appending whole JSON-lines records to a session under its lock.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include <sessionlock/error.hpp>
#include <sessionlock/export.hpp>
#include <sessionlock/session_lock.hpp>

namespace sessionlock {

/// Longest record, in bytes.
inline constexpr std::size_t k_transcript_record_bytes_max = std::size_t{64} * 1024 * 1024;

struct AppendOptions {
  /// Wait until the records are on stable storage. On a file system that is not known to be local every append waits
  /// for that, so that the file server has the records before another host can have the lock.
  bool fsync{false};
};

struct AppendReport {
  /// How many records were written.
  std::size_t records{0};
  /// Where the first of them begins in the file, in bytes.
  std::uint64_t offset{0};
  /// Bytes of an incomplete last line that were moved to `<session>.torn` before this append.
  std::uint64_t torn_bytes_moved{0};
  /// NULs that were cut off before this append: a power cut leaves them, and a program that makes the file longer
  /// without writing to it. They are no part of any record, and are kept nowhere.
  std::uint64_t nul_bytes_cut{0};
  /// Bytes of an incomplete last line that stay in a session that can only be appended to (chattr(1), `a`), ended by a
  /// newline. A reader of such a session has to skip lines that are not JSON.
  std::uint64_t torn_bytes_left{0};
};

/// Appends to one session file under a lock it is given. Every append is one guarded write: it happens wholly, under
/// the lock, or not at all. Thread safety: one thread at a time for each object. Lifetime: keeps a share of the hold's
/// memory, not of the hold: once the lock is released, appends answer `Errc::lost`.
class SESSIONLOCK_API Transcript {
 public:
  /// Opens the session file, creating it if it is not there: with the manager's `ManagerOptions::mode`, or 0600 less
  /// the umask. Errors: `Errc::lost`; `Errc::invalid_argument` for what is no regular file; `Errc::replaced_session`
  /// for a symbolic link, whose target has another lock; those of opening it.
  [[nodiscard]] static Result<Transcript> open(SessionLock& lock, AppendOptions options = {});
  Transcript(Transcript&&) noexcept;
  Transcript& operator=(Transcript&&) noexcept;
  ~Transcript();

  /// Appends one record: one JSON value, without a newline in it (the newline after it is added).
  ///
  /// The first append, and any that finds the file changed by others, looks at its end. A JSON value there that is
  /// complete stays, also with a byte-order mark before it, and gets its newline; a number does not, because it may be
  /// what is left of a longer one. NULs are cut off. Everything else behind the last value or newline was torn by a
  /// crash, and is moved to `<session>.torn`, which has the session's permissions and group. In a session that can only
  /// be appended to, it stays and gets a newline. The report says what was done.
  ///
  /// Nothing is repaired under a lock that other programs write under as well, because one of them may be in the middle
  /// of a line: one that was joined, or that was handed to another program (`SessionLock::spawn_with`), ended or not.
  ///
  /// Errors, after each of which nothing of it is in the file: `Errc::invalid_record`; `Errc::lost`; `Errc::timed_out`;
  /// `Errc::replaced_session` if the path names another file or none by now, or the program has closed the file's
  /// descriptor: open the transcript again to write there;
  /// `Errc::torn_transcript` under such a lock if the last line is incomplete; `Errc::invalid_argument` or EPERM if
  /// `<session>.torn` is a file that must not be written to, with what to do about it; a system error. Where cutting
  /// off what was written failed as well, the detail says so, and the next append repairs it.
  [[nodiscard]] Result<AppendReport> append(std::string_view json);
  /// Appends several records in one write; all or none. Errors: as above; for `Errc::invalid_record` the detail names
  /// the first bad one, counted from 1.
  [[nodiscard]] Result<AppendReport> append(std::span<const std::string_view> records);

  /// Does to the end of a session what an append does before it writes, and appends nothing. For a program that is
  /// about to hand its lock to others (`SessionLock::spawn_with`), under which nothing is repaired any more.
  ///
  /// A session need not be a transcript to be locked, so this only touches what can be recognised as one: a file whose
  /// first and last whole lines are JSON objects, or which has no whole line and begins like a JSON object. It does
  /// nothing, and its report is empty, for any other file, where there is none, and where this process may not write
  /// it.
  ///
  /// Returns: the report, of no records. Blocking: as an append. Errors: as `Transcript::open` and
  /// `Transcript::append`.
  [[nodiscard]] static Result<AppendReport> repair(SessionLock& lock);

 private:
  struct State;
  explicit Transcript(std::unique_ptr<State> state) noexcept;
  std::unique_ptr<State> state_;
};

/// Whether a text is one JSON value (RFC 8259) on one line: what a record must be. Numbers of any size are.
[[nodiscard]] SESSIONLOCK_API bool is_transcript_record(std::string_view text);

}  // namespace sessionlock
