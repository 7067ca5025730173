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
  /// Wait until the records are on stable storage.
  bool fsync{false};
};

struct AppendReport {
  /// How many records were written.
  std::size_t records{0};
  /// Where the first of them begins in the file, in bytes.
  std::uint64_t offset{0};
  /// Bytes of an incomplete last line that were moved to `<session>.torn` before this append.
  std::uint64_t torn_bytes_moved{0};
};

/// Appends to one session file under a lock it is given. Every append is one guarded write: it happens wholly, under
/// the lock, or not at all. Thread safety: one thread at a time for each object. Lifetime: keeps a share of the hold's
/// memory, not of the hold: once the lock is released, appends answer `Errc::lost`.
class SESSIONLOCK_API Transcript {
 public:
  /// Opens the session file, creating it (mode 0600, less the umask) if it is not there.
  /// Errors: `Errc::lost`; `Errc::invalid_argument` for what is no regular file; `Errc::replaced_session` for a
  /// symbolic link, whose target has another lock; those of opening it.
  [[nodiscard]] static Result<Transcript> open(SessionLock& lock, AppendOptions options = {});
  Transcript(Transcript&&) noexcept;
  Transcript& operator=(Transcript&&) noexcept;
  ~Transcript();

  /// Appends one record: one JSON value, without a newline in it (the newline after it is added).
  ///
  /// The first append, and any that finds the file changed by others, looks at its end: an incomplete last line, torn
  /// by a crash, is moved to `<session>.torn`; a complete JSON value (other than a number, which may be a torn longer
  /// one) only gets its newline. Under a joined lock nothing is repaired, because another program under the same lock
  /// may be in mid-line.
  ///
  /// Errors, after each of which nothing of it is in the file: `Errc::invalid_record`; `Errc::lost`; `Errc::timed_out`;
  /// `Errc::replaced_session` if the path names another file or none by now, or the program has closed the file's
  /// descriptor: open the transcript again to write there;
  /// `Errc::torn_transcript` under a joined lock; a system error. Where cutting off what was written failed as well,
  /// the detail says so, and the next append repairs it.
  [[nodiscard]] Result<AppendReport> append(std::string_view json);
  /// Appends several records in one write; all or none. Errors: as above; for `Errc::invalid_record` the detail names
  /// the first bad one, counted from 1.
  [[nodiscard]] Result<AppendReport> append(std::span<const std::string_view> records);

 private:
  struct State;
  explicit Transcript(std::unique_ptr<State> state) noexcept;
  std::unique_ptr<State> state_;
};

/// Whether a text is one JSON value (RFC 8259) on one line: what a record must be. Numbers of any size are.
[[nodiscard]] SESSIONLOCK_API bool is_transcript_record(std::string_view text);

}  // namespace sessionlock
