#pragma once

/// \file
/// Gathers the evidence about one pinned lock and has it judged. This is where what a file says
/// (`lock_file`), what the kernel says of its owner (`process_probe`) and the verdict (`classify`) come together.

#include <chrono>
#include <functional>
#include <optional>

#include <sessionlock/error.hpp>
#include <sessionlock/staleness.hpp>

#include "process/process_probe.hpp"
#include "protocol/lock_file.hpp"
#include "system/file_status.hpp"
#include "verdict/classify.hpp"

namespace sessionlock {

/// For how long a file has been seen unchanged, on the monotonic clock. Its times say nothing of that where they lie in
/// the future.
class UnchangedTime {
 public:
  /// How long ago this file was first seen as it is now; 0 if it was not seen before. Remembers one file.
  [[nodiscard]] std::chrono::milliseconds of(const PinnedInode& pinned);

 private:
  FileIdentity file_{};
  WallTime modified_{};
  std::chrono::steady_clock::time_point since_{};
};

/// What the gathering needs from its surroundings.
struct InspectionContext {
  RemovalPolicy policy{};
  /// Whether this process holds exactly this inode.
  std::function<bool(const FileIdentity&)> held_here{};
  /// The time by the lock's file system, where the caller knows it from a file it just made.
  std::optional<WallTime> file_system_now{};
  /// What a caller that waits has seen of a file from the future; null: nothing.
  UnchangedTime* unchanged{nullptr};
  /// Asks about a pid; replaced where answers are remembered, as in a sweep.
  std::function<ProcessProbe(pid_t)> probe{probe_process};
  /// Asked for the time by the lock's file system where a file's age counts and `file_system_now` does not tell;
  /// replaced likewise.
  std::function<std::optional<WallTime>(const Directory&)> clock{
      [](const Directory& directory) { return file_system_clock(directory.fd.get()); }};
  /// Who looks; null: this process as it is when it looks. Remembered likewise.
  const Observer* observer{nullptr};
};

/// The verdict on a pinned lock, with the lock path filled in.
[[nodiscard]] Inspection judge(const PinnedLock& pinned, const Place& place, const InspectionContext& context);

/// What is known of a pinned file's witness: by the answer about it and, where that does not say enough, by this
/// kernel's list of locks. `record`: what may declare it. `locality`: that of the file.
[[nodiscard]] WitnessState find_witness(const PinnedInode& pinned, WitnessQuery answer, const LockRecord& record,
                                        const Observer& observer, Locality locality);

/// The session of a lock that was found by its name: the recorded one, or the one beside it; empty if its name is none
/// that a session's lock has.
[[nodiscard]] std::filesystem::path session_path_of(const LockRecord& record, const Place& lock);

/// The inspection of a lock path at which there is nothing.
[[nodiscard]] Inspection free_lock(const Place& place);

}  // namespace sessionlock
