#pragma once

/// \file
/// The verdict on a lock as a pure function of its record, the evidence about its owner, and a policy. Room
/// `staleness`: no disk, no clock, no processes. Whoever gathers the evidence (`inspector`) states only what it saw;
/// everything that is concluded from it is concluded here, so that the whole space can be enumerated by a test.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

#include <sys/types.h>

#include <sessionlock/lock_record.hpp>
#include <sessionlock/staleness.hpp>

#include "record/witness.hpp"
#include "text/timestamp.hpp"

namespace sessionlock {

/// Who looks. An empty boot id or a pid namespace of 0 means that it could not be read.
struct Observer {
  pid_t pid{};
  std::optional<std::uint64_t> start_time_ticks{};
  std::string_view boot_id{};
  std::uint64_t pid_namespace{};
  std::uint64_t time_namespace{};
  /// The kernel has `/proc/self/ns/pid` but no `ns/time`: `time_namespace` 0 is then known, not missing.
  bool time_namespaces_absent{};
};

/// Whether the observer's pids and start times can be compared with the record's at all.
enum class Comparison {
  none,    ///< Another boot or namespace, or not enough known of either side.
  own,     ///< A record of this library, written in our boot and namespaces.
  foreign  ///< A record with none of this library's fields: compared as the programs that write such records do.
};
[[nodiscard]] Comparison compare(const LockRecord& record, const Observer& observer);

/// Answer of the kernel to "does anybody hold a write lock on the witness byte?", asked on the pinned descriptor.
enum class WitnessQuery { write_locked, not_locked, failed, not_asked };
enum class WitnessState { held, free, unknown };
/// Which kernels the file system that a file is on may belong to.
enum class Locality {
  unknown,  ///< Others as well: a network file system, a directory of a virtual machine's host.
  overlay,  ///< An overlay of this kernel, whose layers may be another kernel's as well.
  local     ///< This kernel alone.
};
/// What this kernel's list of all file locks says of the files with the pinned one's inode number, on any device:
/// whether one of them has a write lock on its witness byte.
enum class ListQuery { not_asked, unknown, listed, not_listed };
/// What the answers prove. *Free* counts only where no other kernel can have the witness. Either the record declares it
/// on this very inode, and
///   * publisher and observer both take the file system for local to their own kernel; or
///   * both run under the same boot, and the observer takes it for local or for an overlay.
/// Or `needs_lock_list` (the device has another number since a remount), and the list has no such lock.
[[nodiscard]] WitnessState judge_witness(const LockRecord& record, WitnessQuery query, const FileIdentity& file,
                                         const Observer& observer, Locality locality,
                                         ListQuery list = ListQuery::not_asked);
/// Whether that verdict depends on the list of locks, which costs something to read: the record declares this inode
/// number on another device, under the observer's boot, and in the form in which a witness on such a file system is
/// declared.
[[nodiscard]] bool needs_lock_list(const LockRecord& record, WitnessQuery query, const FileIdentity& file,
                                   const Observer& observer, Locality locality);

/// Answer to "does the recorded pid exist?".
enum class PidProbe { unknown, exists, gone };

/// What was seen at a lock path. Default-constructed: a readable file about which nothing is known.
struct Evidence {
  /// The file could not be read (row 1); says why.
  std::error_code unreadable{};
  /// This process holds exactly this inode.
  bool held_here{};
  WitnessState witness{WitnessState::unknown};
  /// The witness query failed, and the record declares a witness (row 1); says why.
  std::error_code witness_failure{};
  Comparison comparison{Comparison::none};
  /// A start time that differs from the record's proves that the process is another one. Not so where another program's
  /// record, which tells no time namespace, is judged from a time namespace in which start times are other numbers.
  bool other_start_counts{true};
  /// The text can be that of a lock.
  bool can_be_lock{true};
  /// Whether some process has the number that digits give where the pid should be.
  PidProbe digits{PidProbe::unknown};
  /// Those digits are the observer's own pid.
  bool own_digits{};
  PidProbe pid{PidProbe::unknown};
  /// Start time of the process that has the recorded pid now, where that pid is comparable.
  std::optional<std::uint64_t> observed_start_ticks{};
  /// The recorded pid is the observer's own.
  bool own_pid{};
  /// How long the observer has run, by the kernel's clock. Needed only where the pid, or the digits, are its own.
  std::optional<std::chrono::milliseconds> own_age{};
  /// Record and observer name different boots.
  bool other_boot{};
  /// The file system of this very file belongs to this kernel, as a directory or as an overlay. Needed only where the
  /// record declares a witness.
  bool local_file_system{};
  /// The file was last written before this kernel booted, in a time namespace without offsets.
  bool older_than_boot{};
  /// How long ago the file was last written, by its file system's clock. For one from the future: 0, or how long it was
  /// seen to be unchanged. Needed only where `needs_file_age` says so.
  std::optional<std::chrono::milliseconds> file_age{};
  /// Wall clock.
  WallTime now{};
};

/// What may be removed although its owner is not provably gone: what the caller's policy says, and of gates what their
/// own option says. That one is not public, because a session's writer must never lose its lock by age.
struct RemovalPolicy : StalePolicy {
  RemovalPolicy() = default;
  /// Implicit: what a caller can say is a policy without a limit to the file's age.
  RemovalPolicy(const StalePolicy& stated, std::optional<std::chrono::milliseconds> mtime_limit = {})
      : StalePolicy(stated), stale_mtime(mtime_limit) {}

  /// For gates: a lock whose file was last modified longer ago may be removed **whatever its owner does**, unless this
  /// process holds it or it cannot be read.
  std::optional<std::chrono::milliseconds> stale_mtime{};
};

/// Whether an observer counts start times as all processes do that have entered no time namespace.
[[nodiscard]] bool is_in_initial_time_namespace(const Observer& observer);

/// What follows from who wrote the record and who looks, before anybody is asked about the owner's process: the
/// comparison, what a start time that differs proves, the boots, and whether the pid is the observer's own.
void relate(Evidence& evidence, const LockRecord& record, const Observer& observer);

/// Whether a verdict on this record can depend on the file's age, which costs something to find out. `related`: what
/// `relate` has said, and the time.
[[nodiscard]] bool needs_file_age(const LockRecord& record, const Evidence& related, const RemovalPolicy& policy = {});

/// When age alone will make a lock removable under this policy, from the inspection's moment; none if it never will, or
/// if the lock is removable already. May be too early where `createdAt` lies in the future and passes meanwhile.
[[nodiscard]] std::optional<std::chrono::milliseconds> time_until_removable(const Inspection& inspection,
                                                                            const RemovalPolicy& policy);

/// The verdict: the first matching row of the table in `docs/protocol.md`. The record moves into the result, whose
/// paths are left empty.
[[nodiscard]] Inspection classify(LockRecord record, const Evidence& evidence, const RemovalPolicy& policy);

}  // namespace sessionlock
