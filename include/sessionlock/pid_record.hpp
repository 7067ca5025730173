#pragma once

/// \file
/// What a PID file says, and what that means.

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include <sys/types.h>

#include <sessionlock/export.hpp>
#include <sessionlock/process_identity.hpp>

namespace sessionlock {

/// How a PID file is written. Every form is readable by every reader.
enum class PidFileFormat {
  json,   ///< `{"pid": 41237, "startToken": "123456", …}` and the caller's own fields
  colon,  ///< `41237:123456`, or `41237:unknown`
  space,  ///< `41237 123456`
  plain   ///< `41237`
};

/// What a PID file says.
struct PidRecord {
  /// 1 … 2^31−1; none if the text names no usable process.
  std::optional<pid_t> pid{};
  /// Opaque start token; none if the form has none, or it says `unknown`.
  std::optional<std::string> start_token{};
  /// There is something where a token belongs, and it is none: "not ours", never "no token".
  bool corrupt_token{false};
  /// Of a JSON form, the whole object's other members, as text: `"port": 4711, "startedAt": "…"`.
  std::string extra_fields{};
  PidFileFormat format{PidFileFormat::plain};

  friend bool operator==(const PidRecord&, const PidRecord&) = default;
};

/// Reads any of the forms and never fails: what is malformed is absent.
[[nodiscard]] SESSIONLOCK_API PidRecord parse_pid_record(std::string_view text);
/// Writes a record in its format. `pid` must be present; a missing token is `unknown` in the colon form and left out in
/// the others.
[[nodiscard]] SESSIONLOCK_API std::string format_pid_record(const PidRecord& record);
/// The process that a record names, for `signal_process` and `stop_process`, as one of this boot and these namespaces:
/// the forms have no place for others. None if there is no usable pid, or if the token is corrupt or of another kind
/// than this system's: such a record must not lead to a signal, verified or not.
[[nodiscard]] SESSIONLOCK_API std::optional<ProcessIdentity> recorded_process(const PidRecord& record);

enum class PidFileState { missing, alive, stale, invalid, unknown };
/// "missing", "alive", … Lifetime: static storage.
[[nodiscard]] SESSIONLOCK_API std::string_view to_string(PidFileState state);

/// What to make of a running process with the recorded pid whose incarnation cannot be compared.
enum class UnverifiedOwner {
  trust,  ///< It is the owner.
  stale   ///< It is not: for an upgrade that replaces files without a token.
};

struct PidFilePolicy {
  /// The file has no token (a legacy form), or `unknown`.
  UnverifiedOwner without_token{UnverifiedOwner::trust};
  /// The file has a token and the process's own cannot be read now.
  UnverifiedOwner unreadable_token{UnverifiedOwner::trust};
  /// How long a file that names no process is taken for a claim in progress by a program that creates before it writes.
  std::chrono::milliseconds malformed_grace{std::chrono::seconds{30}};
};

/// What was found at a PID file's path.
struct SESSIONLOCK_API PidFileInspection {
  std::filesystem::path path{};
  PidFileState state{PidFileState::missing};
  PidRecord record{};
  /// `stale` because the pid now belongs to another process, not because it is gone.
  bool recycled{false};
  /// `alive` on liveness alone: no tokens could be compared.
  bool unverified{false};

  /// One English sentence.
  [[nodiscard]] std::string explanation() const;
};

}  // namespace sessionlock
