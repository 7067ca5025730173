#pragma once

/// \file
/// PID files: long-lived claims that one process, or one child of it, is *the* daemon, worker or engine.
///
/// A PID file is published, inspected and removed by the same protocol as a lock (`docs/protocol.md`): complete at
/// first sight, judged on the pinned inode, unlinked only under that inode's `flock` after comparing. What differs is
/// who decides: there is no witness to rely on in files that other programs write, so the record's pid and start token
/// are the evidence, and where those do not suffice the caller's policy is.

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include <sessionlock/error.hpp>
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
  /// Who answers what is asked about the recorded pid; as it is, this system.
  ProcessQuestions ask{};
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

struct PidFileOptions {
  PidFileFormat format{PidFileFormat::json};
  mode_t mode{0644};
  PidFilePolicy policy{};
  /// On whose behalf: a child, held back until the claim stands; none: this process.
  std::optional<ProcessIdentity> owner{};
  /// More members for the JSON form, as JSON text without braces: `"port": 4711`. Kept verbatim.
  std::string extra_fields{};
  /// Leave the file where the object is destroyed or the program ends: a stale one then means "interrupted".
  bool keep{false};
  /// Files that describe a former owner (`*.port`): removed once the claim stands.
  std::vector<std::filesystem::path> invalidate{};
  /// How long to wait for a claim in progress by a program that creates before it writes.
  std::chrono::milliseconds timeout{std::chrono::seconds{2}};
};

struct PidClaim;

/// A PID file of this process's making. Move-only; unless `keep` was asked for, the destructor removes the file if it
/// is still its own. Thread safety: one thread at a time for each object.
class SESSIONLOCK_API PidFile {
 public:
  PidFile(PidFile&& other) noexcept;
  PidFile& operator=(PidFile&& other) noexcept;
  ~PidFile();

  /// Claims the file: of any number of simultaneous callers exactly one succeeds, and the others learn who it is.
  ///
  /// Returns: the claim, or the survivor; an error is neither, so that a caller may choose to go on without a claim.
  /// Blocking: `options.timeout` at most. Errors: `Errc::timed_out` with a claim that does not come to an end,
  /// `Errc::not_a_lock_file`, `Errc::unsupported_file_system`, system errors.
  [[nodiscard]] static Result<PidClaim> claim(const std::filesystem::path& path, const PidFileOptions& options = {});

  /// Removes the file if it is still this very claim's. Idempotent.
  /// Errors: `Errc::lost` if it is another's, or gone.
  Result<void> release();
  /// Sets the file's modification time to now. Errors: `Errc::lost`.
  Result<void> touch();
  [[nodiscard]] bool owns() const noexcept;
  [[nodiscard]] const std::filesystem::path& path() const;
  [[nodiscard]] const PidRecord& record() const;

 private:
  struct State;
  explicit PidFile(std::unique_ptr<State> state) noexcept;
  std::unique_ptr<State> state_;
};

/// What became of a claim: exactly one of the two is there.
struct PidClaim {
  std::optional<PidFile> file{};
  /// The owner that stays.
  std::optional<PidFileInspection> running{};
};

/// Who a PID file says is running, and whether that is so. Changes nothing.
/// Errors: `Errc::not_a_lock_file`, and those of reading it.
[[nodiscard]] SESSIONLOCK_API Result<PidFileInspection> inspect_pid_file(const std::filesystem::path& path,
                                                                         const PidFilePolicy& policy = {});

/// Removes a PID file that names this process, or whose owner is provably gone; with `also_dead` false only one's own.
/// A record without a token that has this process's pid is its own if the policy trusts such records. Returns: what was
/// there; its `state` says whether it was removed (missing afterwards) through `removed`. `self`: on whose behalf, if
/// not this process's. Errors: `Errc::locked` if it is a live other's, or cannot be judged.
struct PidFileRemoval {
  PidFileInspection found{};
  bool removed{false};
};
[[nodiscard]] SESSIONLOCK_API Result<PidFileRemoval> remove_pid_file(const std::filesystem::path& path,
                                                                     bool also_dead = true,
                                                                     const PidFilePolicy& policy = {},
                                                                     const std::optional<ProcessIdentity>& self = {});

}  // namespace sessionlock
