#pragma once

/// \file
/// What a PID file says, and what that means.

#include <chrono>
#include <cstdint>
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
  json,   ///< `{"pid": 41237, "startToken": "123456", "bootId": …}` and the caller's own fields
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
  /// Where there is no pid: the process that digits name which stand in its place, such as `{"pid": "41237"}`. It keeps
  /// the file from being taken over, and is never signalled.
  std::optional<pid_t> digits_pid{};
  /// Of a JSON form, as in a lock record (`docs/file-format.md`): the boot and the namespaces that number pid and
  /// token, and the inode that the claim's witness is on. None in the other forms, and where other programs write.
  std::optional<std::string> boot_id{};
  std::optional<std::uint64_t> pid_namespace{};
  std::optional<std::uint64_t> time_namespace{};
  std::optional<std::string> witness{};

  friend bool operator==(const PidRecord&, const PidRecord&) = default;
};

/// Reads any of the forms and never fails: what is malformed is absent. The pid of a text form is the first word of the
/// first line that is not blank. Blanks, carriage returns and NULs around it, and further lines, are ignored, because
/// other programs write them.
[[nodiscard]] SESSIONLOCK_API PidRecord parse_pid_record(std::string_view text);
/// Writes a record in its format. `pid` must be present; a missing token is `unknown` in the colon form and left out in
/// the others.
[[nodiscard]] SESSIONLOCK_API std::string format_pid_record(const PidRecord& record);
/// The process that a record names, for `signal_process` and `stop_process`. Where the record does not say otherwise it
/// is one of this boot and these namespaces. None if there is no usable pid, if the record is of another boot or PID
/// namespace, or if the token is corrupt or of another kind than this system's: such a record must not lead to a
/// signal, verified or not.
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

/// What decided a PID file's state.
enum class PidFileReason {
  no_file,            ///< missing: there is none.
  witness_held,       ///< alive: some process holds the kernel lock that came with the file.
  witness_inherited,  ///< alive: the same, but the recorded process has ended: one that shares its claim goes on.
  verified,           ///< alive: pid and token are those of a running process.
  unverified,         ///< alive, or stale by policy: some process has the pid; no tokens could be compared.
  pid_gone,           ///< stale: no process has the pid.
  recycled,           ///< stale: the pid belongs to a process that started at another time.
  corrupt_token,      ///< invalid: a process has the pid, and the token is none.
  empty,              ///< invalid: nothing is in it, or nothing but blanks and NULs.
  torn,               ///< invalid: it is the beginning of a JSON form.
  no_pid,             ///< invalid: it names no usable process.
  no_pid_file,        ///< invalid: it holds something else than a PID file, and is left alone at any age.
  claimers_pid,       ///< stale: it names the process that claims, or the child that is held back for the claim, and no
                      ///< other can be meant: a former process of that number left it.
  older_than_process,  ///< stale: it has no token, and is older than the process that has its pid, which is pid 1 or
                       ///< the parent of the process that asks.
  orphaned,            ///< stale: of another namespace or boot, and no process holds the kernel lock that came with it.
  previous_boot,       ///< stale: written before this machine booted, on a file system of its own.
  undecided            ///< unknown: nothing proves either way.
};
/// "no-file", "verified", … Lifetime: static storage.
[[nodiscard]] SESSIONLOCK_API std::string_view to_string(PidFileReason reason);

/// What was found at a PID file's path.
struct SESSIONLOCK_API PidFileInspection {
  std::filesystem::path path{};
  PidFileState state{PidFileState::missing};
  PidFileReason reason{PidFileReason::no_file};
  PidRecord record{};
  /// Of a file that is empty, torn or names no process: how old it has to be before a claim takes it over, as the
  /// policy says, and how long that takes from now; 0: it is taken over now.
  std::optional<std::chrono::milliseconds> grace{};
  std::optional<std::chrono::milliseconds> due{};

  /// One English sentence, or two.
  [[nodiscard]] std::string explanation() const;
};

}  // namespace sessionlock
