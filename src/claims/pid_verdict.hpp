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
