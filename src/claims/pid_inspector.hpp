#pragma once

/// \file
/// Gathers the evidence about one pinned PID file and has it judged.

#include <optional>

#include <sessionlock/error.hpp>
#include <sessionlock/pid_record.hpp>

#include "protocol/lock_file.hpp"

namespace sessionlock {

/// Opens and reads a PID file. None: there is none. Errors: those of `pin_file`; why it cannot be read;
/// `Errc::not_a_lock_file` for one that is longer than any PID file.
[[nodiscard]] Result<std::optional<PinnedFile>> pin_pid_file(const Place& place);

/// What a pinned PID file, as it was read last, means now. `claimed_for`: the pid of the process in whose name the
/// caller claims the file, itself or a child that is held back; none: it only asks. Errors: why the file could not be
/// read, because what cannot be read may say anything.
[[nodiscard]] Result<PidFileInspection> inspect_pinned(const PinnedFile& pinned, const Place& place,
                                                       const PidFilePolicy& policy,
                                                       std::optional<pid_t> claimed_for = {});

/// The error of an operation on a file that holds something else than a PID file.
[[nodiscard]] tl::unexpected<Error> no_pid_file(const std::string& operation, const std::filesystem::path& path);

}  // namespace sessionlock
