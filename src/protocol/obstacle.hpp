#pragma once

/// \file
/// What prevents this process from making a lock, or from removing one whose owner is gone: asked, without trying.

#include <optional>

#include <sessionlock/error.hpp>
#include <sessionlock/staleness.hpp>

#include "protocol/directory.hpp"
#include "protocol/lock_file.hpp"

namespace sessionlock {

/// Why a directory is refused in which nothing can be removed again. None: it is not one.
[[nodiscard]] std::optional<Error> append_only_obstacle(const Place& place);

/// Why no file could be made under this name, as an attempt would report it. None: nothing is known to prevent it.
[[nodiscard]] std::optional<Error> creation_obstacle(const Place& place);

/// Why this file could not be removed from its path, as `reclaim` would report it. None: nothing is known to prevent
/// it.
[[nodiscard]] std::optional<Error> removal_obstacle(const Place& place, const PinnedInode& file);

/// The error of a removal that failed, with the reason as far as it can be found out. `file`: a descriptor of what was
/// to be removed.
[[nodiscard]] Error removal_failure(const std::error_code& code, const Place& place, int file);

/// Notes in an inspection what prevents an acquire.
void note_obstacle(Inspection& inspection, const Error& error);

}  // namespace sessionlock
