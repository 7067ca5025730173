#pragma once

/// \file
/// What a PID file says and means, apart from disk, clock and processes: the part that only the library uses.

#include <optional>
#include <string>
#include <string_view>

#include <sessionlock/pid_record.hpp>

namespace sessionlock {

/// Whether these are members of a JSON object that can stand beside `pid` and `startToken`.
[[nodiscard]] bool are_extra_fields(std::string_view fields);

/// The verdict on a record: dead on proof, and a token that is there and is none never counts as none.
[[nodiscard]] PidFileInspection judge_pid_record(PidRecord record, Liveness liveness,
                                                 const std::optional<std::string>& token, const PidFilePolicy& policy);

}  // namespace sessionlock
