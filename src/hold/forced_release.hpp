#pragma once

/// \file
/// Removal of a lock that an operator names, also of a living owner's.

#include <string_view>

#include <sessionlock/error.hpp>
#include <sessionlock/staleness.hpp>

#include "protocol/session_location.hpp"

namespace sessionlock {

/// Removes exactly the acquisition that is named by its lock id, or by its pid where the record has no id. Without
/// `force` only if its owner is provably gone.
/// Blocking: while another process has the lock file's `flock`; a quarter of a second at most.
/// Returns and errors: as `LockManager::force_release`.
[[nodiscard]] Result<Inspection> force_release(const SessionLocation& location, std::string_view lock_id_or_pid,
                                               bool force);

}  // namespace sessionlock
