#include "protocol/obstacle.hpp"

#include <cerrno>
#include <string_view>

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

namespace sessionlock {
namespace {

/// Why an entry of a directory may not be removed although the directory may be written, and with which errno its
/// removal fails (fs/namei.c, may_delete and vfs_unlink). No words: nothing is found.
struct RemovalBan {
  std::string_view words{};
  int error{EPERM};
};
RemovalBan removal_ban(const Place& place, int file) {
  const int directory = place.directory->fd.get();
  sys::Attributes of_directory;
  if (sys::attributes(directory, of_directory).ok()) {
    if (of_directory.immutable) {
      return {"its directory is immutable"};
    }
    if (of_directory.append_only) {
      return {"its directory is append-only"};
    }
  }
  sys::Attributes of_file;
  if (sys::attributes(file, of_file).ok()) {
    if (of_file.immutable) {
      return {"the file is immutable"};
    }
    if (of_file.append_only) {
      return {"the file is append-only"};
    }
  }
  struct stat status {};
  const bool is_sticky = sys::fstat(directory, status).ok() && (status.st_mode & S_ISVTX) != 0;
  if (is_sticky && status.st_uid != ::geteuid() && sys::act_as_owner(file).error == EPERM) {
    return {"its directory is sticky, and the file belongs to another user"};
  }
  sys::NamedFile named;
  if (sys::status_of_name(directory, place.name.c_str(), named).ok() && named.is_mount_point) {
    return {"a file is mounted over its name; unmount that first", EBUSY};
  }
  return {};
}

Error removal_error(const std::error_code& code, const Place& place, std::string_view ban) {
  return {code, "remove", place.path(), {}, ban.empty() ? "" : fmt::format("it cannot be removed: {}", ban)};
}

/// Why nothing can be changed in a directory.
std::error_code access_obstacle(const Place& place) {
  const sys::Outcome allowed = sys::faccessat(place.directory->fd.get(), ".", W_OK | X_OK);
  return allowed.ok() ? std::error_code{} : allowed.code();
}

}  // namespace

std::optional<Error> append_only_obstacle(const Place& place) {
  if (!place.directory->append_only) {
    return std::nullopt;
  }
  return Error{{EPERM, std::system_category()},
               "publish",
               place.path(),
               {},
               "its directory is append-only, so the file could not be removed again"};
}

std::optional<Error> creation_obstacle(const Place& place) {
  if (const std::error_code code = access_obstacle(place)) {
    return Error{code, "openat", place.path(), {}, {}};
  }
  return append_only_obstacle(place);
}

std::optional<Error> removal_obstacle(const Place& place, const PinnedInode& file) {
  std::error_code code = access_obstacle(place);
  const RemovalBan ban = removal_ban(place, file.fd.get());
  if (!code && !ban.words.empty()) {
    code = {ban.error, std::system_category()};
  }
  return code ? std::optional(removal_error(code, place, ban.words)) : std::nullopt;
}

Error removal_failure(const std::error_code& code, const Place& place, int file) {
  return removal_error(code, place, removal_ban(place, file).words);
}

void note_obstacle(Inspection& inspection, const Error& error) {
  inspection.obstacle = error.code;
  inspection.obstacle_detail = error.detail;
}

}  // namespace sessionlock
