#include "protocol/session_location.hpp"

#include <array>
#include <cerrno>
#include <climits>

#include <fcntl.h>
#include <fmt/core.h>
#include <boost/uuid/name_generator_sha1.hpp>
#include <boost/uuid/uuid_io.hpp>

#include "system/file_status.hpp"
#include "system/paths.hpp"
#include "verdict/failure.hpp"

namespace sessionlock {
namespace {

constexpr int k_links_max = 40;  // as path_resolution(7)
constexpr std::string_view k_lock_suffix = ".lock";

struct FollowedSession {
  DirectoryPtr directory;
  std::string name;
  std::string given_folder;
  std::optional<SessionPermissions> permissions{};
};

constexpr std::string_view k_aliases_accepted = "accept that with allow_hard_links (--allow-hard-links)";

/// Why a session would have several locks; empty: nothing says that it has another name.
std::string alias_words(const sys::NamedFile& file) {
  if (file.is_mount_point) {
    return fmt::format(
        "a file is mounted over it, and each name of that file would have a lock of its own; mount its "
        "directory instead, or {}",
        k_aliases_accepted);
  }
  if (S_ISREG(file.mode) && file.links > 1) {
    return fmt::format("it has {} hard links, and each name would have a lock of its own; {}", file.links,
                       k_aliases_accepted);
  }
  return {};
}

/// What a session's name stands for.
struct FollowedName {
  /// The path to which a symbolic link leads; none if the name is no link.
  std::optional<std::string> target{};
  /// Of what is there and is no link.
  std::optional<SessionPermissions> permissions{};
};

/// One step along a symbolic link. Errors: what lies there is no session.
Result<FollowedName> follow(const Directory& directory, const std::string& name, const LocateOptions& options) {
  const auto path = [&] { return join_path(directory.path, name); };
  sys::NamedFile file;
  const auto found = sys::status_of_name(directory.fd.get(), name.c_str(), file);
  if (!found.ok()) {
    if (found.error == ENOENT) {
      return FollowedName{};
    }
    return failure(found.code(), "statx", path());
  }
  if (S_ISDIR(file.mode)) {
    return failure(std::make_error_code(std::errc::is_a_directory), "locate session", path());
  }
  if (auto alias = options.allow_hard_links ? std::string() : alias_words(file); !alias.empty()) {
    return failure(Errc::aliased_session, "locate session", path(), std::move(alias));
  }
  if (!S_ISLNK(file.mode)) {
    return FollowedName{{}, SessionPermissions{file.mode, file.group}};
  }
  std::array<char, PATH_MAX> buffer{};
  const auto length = sys::readlinkat(directory.fd.get(), name.c_str(), buffer.data(), buffer.size());
  if (length.error == EINVAL || length.error == ENOENT) {
    return FollowedName{path(), {}};  // no link any more: whoever follows it looks again, as often as it follows links
  }
  if (!length.ok()) {
    return failure(length.code(), "readlinkat", path());
  }
  const std::string_view target(buffer.data(), static_cast<std::size_t>(length.value));
  return FollowedName{target.starts_with('/') ? std::string(target) : join_path(directory.path, target), {}};
}

/// Opens a directory; makes it and what is missing above it only if it is not there.
Result<DirectoryPtr> open_or_make_directory(const std::string& path, bool make) {
  auto opened = open_directory(path);
  if (opened || !make || opened.error().code != std::errc::no_such_file_or_directory) {
    return opened;
  }
  std::error_code error;
  sys::create_directories(path, error);
  if (error) {
    return failure(error, "create directories", path);
  }
  return open_directory(path);
}

/// A path's folder and name; `.` and `/` are folders too.
struct SplitPath {
  std::string folder;
  std::string name;
};
SplitPath split(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) {
    return {".", path};
  }
  return {path.substr(0, std::max<std::size_t>(slash, 1)), path.substr(slash + 1)};
}

Result<FollowedSession> enter(const std::string& path, const LocateOptions& options) {
  auto [folder, name] = split(path);
  if (name.empty() || name == "." || name == ".." || path.find('\0') != std::string::npos) {
    return failure(Errc::invalid_argument, options.naming == LockNaming::itself ? "locate gate" : "locate session",
                   path, "the path does not name a file");
  }
  auto opened = open_or_make_directory(folder, options.create_directories);
  if (!opened) {
    return tl::unexpected(std::move(opened).error());
  }
  return FollowedSession{std::move(*opened), std::move(name), std::move(folder), {}};
}

Result<FollowedSession> follow_to_end(std::string path, const LocateOptions& options) {
  for (int links = 0; links <= k_links_max; ++links) {
    auto at = enter(path, options);
    if (!at) {
      return at;
    }
    auto next = follow(*at->directory, at->name, options);
    if (!next) {
      return tl::unexpected(std::move(next).error());
    }
    if (!next->target) {
      if (links > 0) {
        at->given_folder.clear();
      }
      at->permissions = next->permissions;
      return at;
    }
    path = std::move(*next->target);
  }
  return failure(std::make_error_code(std::errc::too_many_symbolic_link_levels), "locate session", path);
}

/// A caller that takes a lock's name for a session's would write its records into the lock.
Result<void> check_session_name(const FollowedSession& at) {
  const std::string_view name = at.name;
  if (name.size() <= k_lock_suffix.size() || !name.ends_with(k_lock_suffix)) {
    return {};
  }
  const std::string_view session = name.substr(0, name.size() - k_lock_suffix.size());
  return failure(Errc::invalid_argument, "locate session", join_path(at.directory->path, at.name),
                 fmt::format("it is the name of a lock; name its session, {}", session));
}

/// The location of a lock file that is named itself. A symbolic link under its name is not followed: whoever may write
/// the directory could turn it while processes enter.
///   1. Another user makes the link `work.gate`, to `a`. 2. A follows it, and locks `a`. 3. The user removes the link.
///   4. B locks `work.gate`, and both are inside.
/// Opening the lock file (`pin_file`) refuses the link, as it refuses every file that is not regular.
Result<SessionLocation> locate_lock_file(const std::string& path, const LocateOptions& options) {
  auto at = enter(path, options);
  if (!at) {
    return tl::unexpected(std::move(at).error());
  }
  const Place place{std::move(at->directory), std::move(at->name)};
  return SessionLocation{place, place, std::move(at->given_folder), {}};
}

}  // namespace

Result<SessionLocation> locate(const std::filesystem::path& session, const LocateOptions& options) {
  if (options.naming == LockNaming::itself) {
    return locate_lock_file(session.native(), options);
  }
  auto followed = follow_to_end(session.native(), options);
  if (!followed) {
    return tl::unexpected(std::move(followed).error());
  }
  if (auto checked = check_session_name(*followed); !checked) {
    return tl::unexpected(std::move(checked).error());
  }
  SessionLocation location{
      {std::move(followed->directory), std::move(followed->name)}, {}, std::move(followed->given_folder), {}};
  location.permissions = followed->permissions;
  if (options.lock_directory.empty()) {
    location.lock = {location.session.directory, lock_name_beside(location.session.name)};
    auto checked = check_lock_name(location.lock.path());
    return checked ? Result<SessionLocation>(std::move(location)) : tl::unexpected(std::move(checked).error());
  }
  auto directory = open_or_make_directory(options.lock_directory.native(), options.create_directories);
  if (!directory) {
    return tl::unexpected(std::move(directory).error());
  }
  location.lock = {std::move(*directory),
                   lock_name_in_directory(join_path(path_now(*location.session.directory), location.session.name))};
  if (auto checked = check_lock_name(location.lock.path()); !checked) {
    return tl::unexpected(std::move(checked).error());
  }
  std::error_code no_working_directory;
  location.given_lock_directory = std::filesystem::absolute(options.lock_directory, no_working_directory).native();
  return location;
}

namespace {

/// Whether the name in the given folder is no link now, or is one that is not followed.
Result<bool> is_plain_now(const SessionLocation& location, const LocateOptions& options) {
  if (options.naming == LockNaming::itself) {
    return true;
  }
  auto next = follow(*location.session.directory, location.session.name, options);
  return next ? Result<bool>(!next->target) : tl::unexpected(std::move(next).error());
}

}  // namespace

bool has_usable_descriptors(const SessionLocation& location) {
  const auto& lock = location.lock.directory;
  const auto& session = location.session.directory;
  return lock->fd.is_usable() && (session == lock || session->fd.is_usable());
}

Result<bool> is_current(const SessionLocation& location, const std::filesystem::path& session,
                        const LocateOptions& options) {
  if (!location.given_folder.empty() && options.lock_directory.empty() &&
      leads_to(location.given_folder, location.session.directory->identity)) {
    // The usual case in two calls: the same folder, and the name in it is no link now either.
    auto is_plain = is_plain_now(location, options);
    if (!is_plain || *is_plain) {
      return is_plain;
    }
  }
  auto again = locate(session, options);
  if (!again) {
    if (again.error().code == std::errc::no_such_file_or_directory) {
      return false;
    }
    return tl::unexpected(std::move(again).error());
  }
  return again->session.directory->identity == location.session.directory->identity &&
         again->session.name == location.session.name &&
         again->lock.directory->identity == location.lock.directory->identity && again->lock.name == location.lock.name;
}

namespace {

/// Whether a path, all links followed, leads to this directory now. Errors: of `fstatat`, where it cannot be told.
Result<bool> is_path_to(const std::string& path, const FileIdentity& directory) {
  struct stat status {};
  const auto found = sys::fstatat(AT_FDCWD, path.c_str(), status, 0);
  if (found.ok()) {
    return identity_of(status) == directory;
  }
  if (found.error == ENOENT || found.error == ENOTDIR || found.error == ELOOP) {
    return false;
  }
  return failure(found.code(), "fstatat", path);
}

}  // namespace

Result<bool> is_reached(const SessionLocation& location) {
  if (location.given_lock_directory.empty()) {
    return true;
  }
  const Place& session = location.session;
  const Place& lock = location.lock;
  const std::string folder = path_now(*session.directory);
  if (lock_name_in_directory(join_path(folder, session.name)) != lock.name) {
    return false;
  }
  auto reached = is_path_to(folder, session.directory->identity);  // not if something was mounted over it
  if (reached && *reached) {
    reached = is_path_to(location.given_lock_directory, lock.directory->identity);
  }
  if (reached && *reached && lock.directory->path != location.given_lock_directory) {
    reached = is_path_to(lock.directory->path, lock.directory->identity);
  }
  return reached;
}

Result<void> check_lock_name(const std::filesystem::path& lock) {
  const std::size_t length = lock.filename().native().size();
  if (length <= NAME_MAX) {
    return {};
  }
  return failure(std::make_error_code(std::errc::filename_too_long), "locate lock", lock,
                 fmt::format("the lock's name would have {} bytes, and {} are possible", length, NAME_MAX));
}

std::string lock_name_beside(const std::string& session_name) {
  std::string name;
  name.reserve(session_name.size() + k_lock_suffix.size());
  return name.append(session_name).append(k_lock_suffix);
}

std::string lock_name_in_directory(const std::filesystem::path& canonical_session) {
  const boost::uuids::name_generator_sha1 generate(boost::uuids::ns::url());
  return boost::uuids::to_string(generate(canonical_session.native())) + "-" +
         lock_name_beside(canonical_session.filename().native());
}

std::string session_name_of_lock(const std::string& lock_name) {
  const std::string_view name(lock_name);
  if (name.size() <= k_lock_suffix.size() || !name.ends_with(k_lock_suffix)) {
    return {};
  }
  return std::string(name.substr(0, name.size() - k_lock_suffix.size()));
}

}  // namespace sessionlock
