#pragma once

/// \file
/// PID files: long-lived claims that one process, or one child of it, is *the* daemon, worker or engine.
///
/// A PID file is published, inspected and removed by the same protocol as a lock (`docs/protocol.md`): complete at
/// first sight, judged on the pinned inode, unlinked only under that inode's `flock` after comparing. Whoever publishes
/// one holds its witness, a kernel lock: while any process has that, the file counts as running, whatever namespaces
/// say. Files that other programs write have none; there the record's pid and start token are the evidence, and where
/// those do not suffice the caller's policy is.

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include <sessionlock/error.hpp>
#include <sessionlock/export.hpp>
#include <sessionlock/pid_record.hpp>
#include <sessionlock/process_identity.hpp>

namespace sessionlock {

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
  /// Files that describe a former owner (`*.port`): removed once the claim stands, while no other claim can begin. If
  /// the claim is lost by then none is removed, and the answer is `Errc::lost`.
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
  /// Blocking: `options.timeout` at most, and 5 s more with files to invalidate, while another process has the file
  /// locked. Errors: `Errc::timed_out` with a claim that does not come to an end, `Errc::lost` (see `invalidate`),
  /// `Errc::not_a_lock_file`, `Errc::unsupported_file_system`, system errors.
  [[nodiscard]] static Result<PidClaim> claim(const std::filesystem::path& path, const PidFileOptions& options = {});

  /// Removes the file if it is still this very claim's: the same inode, which names the same pid, the same start token
  /// if the claim wrote one, and no other boot or PID namespace. Idempotent. Blocking: 5 s at most, while another
  /// process has the file locked. Errors: `Errc::lost` if it is not, or is gone; what is there stays.
  /// `Errc::timed_out`, and those of the calls: the claim is still this object's.
  [[nodiscard]] Result<void> release();
  /// Sets the file's modification time to now. Errors: `Errc::lost`.
  [[nodiscard]] Result<void> touch();
  [[nodiscard]] bool owns() const noexcept;
  /// The descriptor that carries the claim's witness; -1 once the claim has ended.
  /// As long as any process has it open the claim counts as running: a program that is to share the claim inherits it,
  /// or is sent it (unix(7), `SCM_RIGHTS`). It is close-on-exec. Lifetime: this object's; do not close it.
  [[nodiscard]] int witness_descriptor() const noexcept;
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

/// Which PID files `remove_pid_file` removes.
enum class RemoveWhose {
  own,          ///< One that names this process, or the process on whose behalf it is called.
  own_or_stale  ///< Also one whose owner is provably gone, or that has named nobody for `malformed_grace`.
};
struct PidFileRemoval {
  /// What was there. Its state is `missing` if there was nothing.
  PidFileInspection found{};
  bool removed{false};
};
/// Removes a PID file if it is one of those that `whose` names. A record without a token that has this process's pid is
/// its own where the policy trusts such records. `self`: the process on whose behalf this is, if not the calling one.
///
/// Blocking: 5 s at most, while another process has the file locked. Thread safety: safe. Errors: `Errc::locked` if the
/// file is none of those, with the reason as detail; `Errc::timed_out`; `Errc::not_a_lock_file`; those of the calls.
[[nodiscard]] SESSIONLOCK_API Result<PidFileRemoval> remove_pid_file(const std::filesystem::path& path,
                                                                     RemoveWhose whose,
                                                                     const PidFilePolicy& policy = {},
                                                                     const std::optional<ProcessIdentity>& self = {});

}  // namespace sessionlock
