#pragma once

/// \file
/// Which process has a file locked, for the words of a time-out.

#include <optional>

#include <sys/types.h>

#include "record/witness.hpp"

namespace sessionlock {

/// A pid that holds or wants a `flock` on this inode, from `/proc/locks`; none where that is not known. Asks no file
/// system but the file's own kind on this machine, so it does not wait for a server that another process's files are
/// on.
[[nodiscard]] std::optional<pid_t> flock_holder(const FileIdentity& file);

}  // namespace sessionlock
