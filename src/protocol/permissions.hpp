#pragma once

/// \file
/// Who may read a lock file besides its owner.
///
/// A lock that cannot be read counts as held for ever, so those who may write a session have to be able to read its
/// lock. They never get to write it, on any file system: a process that can write a dead owner's lock can make it say
/// that a living process holds it.

#include <filesystem>
#include <optional>
#include <string>

#include <sys/stat.h>
#include <sys/types.h>

#include <sessionlock/error.hpp>

#include "protocol/directory.hpp"
#include "protocol/session_location.hpp"

namespace sessionlock {

/// With which every lock is made, until it is given others.
inline constexpr mode_t k_private_mode = S_IRUSR | S_IWUSR;

/// The permissions that a lock file is to have.
struct LockPermissions {
  /// Exact, whatever the umask is.
  mode_t mode{k_private_mode};
  /// The group that may read it, where a group may; none: the one that the file is made with.
  std::optional<gid_t> group{};
  /// A caller asked for this mode: it is an error if it cannot be set. Otherwise the file may stay as it was made,
  /// readable for its owner alone.
  bool by_hand{false};
};

/// Whether a mode can be asked for. Errors: `Errc::invalid_argument`, named as that of an operation on a path.
[[nodiscard]] Result<void> check_mode(std::optional<mode_t> by_hand, const std::string& operation,
                                      const std::filesystem::path& path);

/// The rule: read and write for the owner; read for the group of a session that its group may write, unless the session
/// has an access control list, since the group's bits are its mask then and say nothing about the group; read for
/// everybody where everybody may write the session. A mode that was asked for takes the place of the rule, less what
/// would let others write.
[[nodiscard]] LockPermissions decide_lock_permissions(const std::optional<SessionPermissions>& session, bool has_acl,
                                                      std::optional<mode_t> by_hand);

/// The same for a session that was located. Asks for its access control list only where that counts.
[[nodiscard]] LockPermissions lock_permissions(const SessionLocation& location, std::optional<mode_t> by_hand);

/// Gives a file that was made for its owner alone, and has no name that others may open it by, the permissions that it
/// is to have: the group first, so that at no moment another group may read it. Read for the group is left out where
/// the group cannot be given, or where the file has inherited an access control list from its directory, whose entries
/// the group's bits would let in. Makes no call where the file is already as it is to be. `made`: its status.
/// Errors: those of `fchmod`, where the mode was asked for.
[[nodiscard]] Result<void> set_permissions(const sys::Fd& fd, const struct stat& made,
                                           const LockPermissions& permissions, const Place& place);

}  // namespace sessionlock
