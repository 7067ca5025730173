#pragma once

/// \file
/// The one place that turns a session path into the names that count.

#include <filesystem>
#include <optional>
#include <string>

#include <sys/types.h>

#include <sessionlock/error.hpp>

#include "protocol/directory.hpp"

namespace sessionlock {

/// What of a session file's permissions counts for its lock's.
struct SessionPermissions {
  mode_t mode{};
  gid_t group{};
};

/// Where a session and its lock are, after all symbolic links.
struct SessionLocation {
  Place session;
  Place lock;
  /// The folder of the path as it was given, where no link was followed.
  std::string given_folder{};
  /// The path that led to the directory of locks, made absolute; empty: the lock lies beside its session.
  std::string given_lock_directory{};
  /// The session's permissions when it was located; none: it did not exist, or there is no session.
  std::optional<SessionPermissions> permissions{};
};

/// What the path given to `locate` names.
enum class LockNaming {
  beside_session,  ///< The session.
  itself           ///< The lock file, such as a gate's: there is no session, and a link is not followed to another.
};

struct LocateOptions {
  /// Where locks lie; empty: beside their sessions.
  std::filesystem::path lock_directory{};
  bool create_directories{false};
  /// Accept a session with several names: hard links, or a file that is mounted over the session's name.
  bool allow_hard_links{false};
  LockNaming naming{LockNaming::beside_session};
};

/// Finds the canonical session: links are followed one by one to the end, so that a link, dangling or not, and its
/// target have one lock; directories above it are resolved by the kernel. Of a lock file that is named itself only the
/// directories are resolved; what lies under its name is for `pin_file` to accept or refuse.
/// Errors: `Errc::invalid_argument` for a path that cannot name a file, `Errc::aliased_session` for a file with several
/// hard links and for one that is mounted over the session's name, ENAMETOOLONG for a name whose lock's would be too
/// long, ELOOP, and those of the calls it makes.
[[nodiscard]] Result<SessionLocation> locate(const std::filesystem::path& session, const LocateOptions& options);

/// Whether `locate` would still give this location: asked again once the lock is held.
[[nodiscard]] Result<bool> is_current(const SessionLocation& location, const std::filesystem::path& session,
                                      const LocateOptions& options);

/// Whether the directories are still open under their numbers (see `sys::Fd`). Asked after each wait: nothing may be
/// published, or removed, through a number under which the program has opened another directory meanwhile.
[[nodiscard]] bool has_usable_descriptors(const SessionLocation& location);

/// Whether a lock in a directory of locks still keeps others away from its session: the session's directory has the
/// path after which the lock was named, and the path that was given for the directory of locks leads there, as does its
/// canonical one. A lock beside its session moves with it, so for that one the answer is always yes.
/// Errors: of `fstatat`, where it cannot be told.
[[nodiscard]] Result<bool> is_reached(const SessionLocation& location);

/// The name of a session's lock: the only place that knows how it is built.
[[nodiscard]] std::string lock_name_beside(const std::string& session_name);
/// The name in a directory of locks: `<UUID v5 of the canonical session path>-<name>.lock`, in the URL name space of
/// RFC 4122.
[[nodiscard]] std::string lock_name_in_directory(const std::filesystem::path& canonical_session);
/// A lock's name is longer than its session's, so a session may exist that can have no lock: ENAMETOOLONG.
[[nodiscard]] Result<void> check_lock_name(const std::filesystem::path& lock);
/// The session's name for the name of a lock beside it; empty if it is none.
[[nodiscard]] std::string session_name_of_lock(const std::string& lock_name);

}  // namespace sessionlock
