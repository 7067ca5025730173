#pragma once

/// \file
/// What stat(2) says about a file, in this library's types, and the clock that a file's times are told by.

#include <cstdint>
#include <optional>

#include <sys/stat.h>

#include "record/witness.hpp"
#include "text/timestamp.hpp"

namespace sessionlock {

/// Which inode a status is of.
[[nodiscard]] FileIdentity identity_of(const struct stat& status) noexcept;
/// The size of a file, in bytes.
[[nodiscard]] std::uint64_t size_of(const struct stat& status) noexcept;
/// When a file was last written. Saturates.
[[nodiscard]] WallTime modification_time(const struct stat& status);
/// The time by the file system of an open directory, from a nameless file made there; none where that fails.
[[nodiscard]] std::optional<WallTime> file_system_clock(int directory);

}  // namespace sessionlock
