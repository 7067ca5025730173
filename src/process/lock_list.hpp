#pragma once

/// \file
/// The kernel's list of file locks, `/proc/locks`.

#include <cstdint>
#include <optional>

namespace sessionlock {

/// Whether any process of this kernel, in whatever namespace, has an OFD write lock on this byte of a file with this
/// inode number, on whatever device: a mount that cannot be seen from here included. None where that is not known.
/// Does not block.
[[nodiscard]] std::optional<bool> has_listed_ofd_lock(std::uint64_t inode, std::int64_t offset);

}  // namespace sessionlock
