#pragma once

/// \file
/// What a PID file means, as a pure function of its text, the evidence about its owner, and a policy.

#include <chrono>
#include <optional>
#include <string>

#include <sessionlock/pid_record.hpp>

#include "claims/pid_record.hpp"

namespace sessionlock {

/// What was seen at a PID file's path. Default-constructed: nothing is known.
struct PidFileEvidence {
  /// The file is a claim of this process, or some process holds its witness.
  bool is_held{false};
  /// The record declares a witness on this very file, and nobody holds it.
  bool witness_is_free{false};
  /// The recorded pid is numbered as this process numbers pids; without that nothing is asked about it.
  bool pid_is_comparable{true};
  /// And its token is told by the same clock.
  bool token_is_comparable{true};
  /// A token that differs from the record's proves that the process is another one. Not so where the record tells no
  /// time namespace, and is judged from one in which start times are other numbers.
  bool other_token_counts{true};
  /// The record is of another boot, declares a witness, and its file is older than this boot; on a file system that
  /// belongs to this kernel alone.
  bool is_from_previous_boot{false};
  /// The record, or its digits, name the process that claims the file, or the child that is held back for this claim.
  bool names_claimer{false};
  /// They name a process that may well have the pid of a former one, such as pid 1 of a container, and that started
  /// after the file was last written.
  bool is_older_than_process{false};
  /// Of the process that the record, or its digits, name.
  Liveness liveness{Liveness::unknown};
  /// The start token of the process that has the recorded pid now; none where it cannot be read.
  std::optional<std::string> token{};
  /// By the file system's clock. Counts where the text names no process.
  std::chrono::milliseconds file_age{0};
};

/// The verdict: dead on proof, and a token that is there and is none never counts as none. The path is left empty.
[[nodiscard]] PidFileInspection judge_pid_file(PidText text, const PidFileEvidence& evidence,
                                               const PidFilePolicy& policy);

/// Whether a claim may take such a file over now.
[[nodiscard]] bool is_removable(const PidFileInspection& found);

}  // namespace sessionlock
