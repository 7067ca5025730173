#pragma once

/// \file
/// The record of a lock of this process, before its file exists.

#include <sessionlock/error.hpp>
#include <sessionlock/lock_record.hpp>
#include <sessionlock/options.hpp>

#include "protocol/session_location.hpp"

namespace sessionlock {

/// Everything a record says but the witness, which `publish` adds. `names_session` where the lock does not lie beside
/// its session. Errors: of getrandom(2).
[[nodiscard]] Result<LockRecord> draft_record(const AcquireOptions& options, const SessionLocation& location,
                                              bool names_session);

}  // namespace sessionlock
