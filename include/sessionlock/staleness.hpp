#pragma once

/// \file
/// What a lock means: the verdict on its owner, and the words for it.
///
/// The rule behind every verdict: alive if anything says alive; dead only on proof; otherwise unknown, and unknown
/// means held. `docs/protocol.md` has the table.

#include <chrono>
#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <sys/types.h>

#include <sessionlock/export.hpp>
#include <sessionlock/lock_record.hpp>

namespace sessionlock {

/// Why a lock is, or looks, stale. The first six come from the verdict on the owner; the last three are facts about the
/// record that are listed whatever the verdict is.
enum class StaleReason {
  missing_pid,         ///< The record names no usable owner.
  dead_pid,            ///< No process has the recorded pid.
  recycled_pid,        ///< The recorded pid now belongs to a process that started at another time.
  previous_boot,       ///< Written under another boot of this machine, before this one.
  orphaned,            ///< Of another namespace or boot id, and no process holds its witness any more.
  orphan_self_pid,     ///< This very process is recorded, yet holds nothing: left behind by an `exec`.
  invalid_created_at,  ///< `createdAt` is absent or not RFC 3339.
  too_old,             ///< Older than `StalePolicy::stale_after`, by `createdAt` and by its file; or a gate's file is.
  hold_exceeded        ///< Older than the holder's own `maxHoldMs`, likewise.
};

inline constexpr std::size_t k_stale_reason_count = 9;

/// The reason as documented for users: "missing-pid", "dead-pid", …, "invalid-createdAt", "too-old", "hold-exceeded".
/// Lifetime: the view is of static storage.
[[nodiscard]] SESSIONLOCK_API std::string_view to_string(StaleReason reason);

enum class LockState {
  free,     ///< No lock file.
  held,     ///< A process has it, or may have it; or the file is no lock, and an acquire fails.
  pending,  ///< No usable owner yet, and so young that it may be a lock being written.
  stale     ///< Removable: its owner is provably gone, or a policy says that age is enough.
};
enum class OwnerState { none, alive, dead, unknown };

/// "free", "held", "pending" or "stale". Lifetime: static storage.
[[nodiscard]] SESSIONLOCK_API std::string_view to_string(LockState state);
/// "none", "alive", "dead" or "unknown". Lifetime: static storage.
[[nodiscard]] SESSIONLOCK_API std::string_view to_string(OwnerState owner);

/// What to do with an aged lock of another program that has no start time, while some process has its pid.
enum class AgedUnverified { reclaim, keep };
/// What to do with a lock whose owner cannot be judged from here.
enum class UnknownOwner { hold, reclaim_when_aged };

/// When a lock may be removed although its owner is not provably gone. Durations below zero count as zero.
struct StalePolicy {
  /// Age from which a lock is `too_old`. That of `createdAt` by this machine's clock counts only if the file is as old
  /// by its file system's clock, so that a clock that is wrong on this machine makes no young lock old.
  std::chrono::milliseconds stale_after{std::chrono::minutes{30}};
  /// How long a file without a usable pid is left alone: another program may be between create and write.
  std::chrono::milliseconds malformed_grace{std::chrono::seconds{30}};
  AgedUnverified aged_unverified{AgedUnverified::reclaim};
  UnknownOwner unknown_owner{UnknownOwner::hold};
};

/// The evidence that decided a verdict: one value for each row of the verdict table in `docs/protocol.md`.
enum class Basis {
  no_file,            ///< Nothing at the lock path.
  unreadable,         ///< The file, or its witness, cannot be read: `Inspection::cause` says why.
  held_here,          ///< This process holds it.
  witness_held,       ///< Some process holds the kernel lock that came with the file.
  witness_inherited,  ///< The same, but the recorded process has ended: a program that it gave the lock to goes on.
  digits,             ///< No usable pid in the record, but digits in its place, and some process has that number.
  not_a_lock,         ///< No usable pid, and the text is not that of a lock: it is never removed.
  no_pid,             ///< No usable pid in the record.
  orphan_self,        ///< Our own pid and start time, but the witness is free.
  pid_gone,           ///< No such process.
  start_differs,      ///< The pid was given to another process.
  verified,           ///< Pid and start time are those of a running process.
  unverified,         ///< Another program's record without a start time; some process has the pid.
  start_unknown,      ///< The process exists; its start time cannot be compared.
  witness_free,       ///< Another namespace or boot id, but no process holds the witness.
  before_this_boot,   ///< Another boot, and the file is older than this one.
  undecided           ///< Nothing proves either way.
};

/// Whose a file is, and who may do what with it (stat(2)).
struct FileAccess {
  uid_t user{};
  gid_t group{};
  mode_t mode{};
};

/// What was found at a lock path and what it means. A default-constructed value describes a free lock.
struct SESSIONLOCK_API Inspection {
  /// Canonical session path; empty where only the lock file is known.
  std::filesystem::path session_path{};
  std::filesystem::path lock_path{};
  LockState state{LockState::free};
  OwnerState owner{OwnerState::none};
  LockRecord record{};
  /// The pid that a lock of another program names in a form that is no record's: a plain number, or a `pid` that is a
  /// string of digits. None where the record has a pid. It is no address for a signal.
  std::optional<pid_t> digits_pid{};
  /// True only if the recorded pid was asked for and some process has it.
  bool pid_alive{false};
  /// Time since `createdAt`; of one in the future, `file_age`; none where `createdAt` is not a time.
  std::optional<std::chrono::milliseconds> age{};
  /// Time since the file's last modification by its file system's clock, where the verdict can depend on it. Of a
  /// modification in the future: for how long the call has seen the file unchanged, which is 0 for all but waits.
  std::optional<std::chrono::milliseconds> file_age{};
  /// The verdict's reason first, then the facts.
  std::vector<StaleReason> reasons{};
  /// An acquire would take this lock over now, unless an `obstacle` prevents it.
  bool removable{false};
  /// This call took it away.
  bool removed{false};
  /// Which evidence decided.
  Basis basis{Basis::no_file};
  /// Why the file could not be read, where `basis` is `unreadable`; `Errc::not_a_lock_file` where it is `not_a_lock`.
  std::error_code cause{};
  /// Of a file that may not be read (EACCES): who could.
  std::optional<FileAccess> denied_by{};
  /// Why an acquire would fail at once, whatever the owner does: no lock can be made here (EROFS), this one may not be
  /// removed (EPERM), or the session has several names (`Errc::aliased_session`). None if nothing is known to prevent
  /// it. Set by `LockManager::inspect` and, for a removable lock, by a sweep.
  std::error_code obstacle{};
  /// What the code of `obstacle` does not say; may be empty.
  std::string obstacle_detail{};

  /// One English sentence: who holds the lock, and why it is or is not stale.
  [[nodiscard]] std::string explanation() const;
};

}  // namespace sessionlock
