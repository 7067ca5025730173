#include "protocol/permissions.hpp"

#include <string>
#include <utility>

#include "process/procfs.hpp"
#include "protocol/lock_file.hpp"
#include "text/mode_text.hpp"

namespace sessionlock {
namespace {

constexpr mode_t k_permission_bits = S_ISUID | S_ISGID | S_ISVTX | S_IRWXU | S_IRWXG | S_IRWXO;
constexpr uid_t k_same_user = static_cast<uid_t>(-1);

/// Where that cannot be told, it has one.
bool session_has_acl(const Place& session) {
  const std::string path = std::string(descriptor_link(session.directory->fd.get()).data()) + '/' + session.name;
  const auto found = sys::has_access_list(path.c_str());
  return !found.ok() || found.value != 0;
}

bool has_group(int fd, const struct stat& made, gid_t group) {
  return made.st_gid == group || sys::fchown(fd, k_same_user, group).ok();
}

bool has_no_acl(int fd) {
  const auto found = sys::has_access_list(fd);
  return found.ok() && found.value == 0;
}

}  // namespace

Result<void> check_mode(std::optional<mode_t> by_hand, const std::string& operation,
                        const std::filesystem::path& path) {
  std::string fault = by_hand ? mode_fault(*by_hand) : std::string{};
  return fault.empty() ? Result<void>{} : failure(Errc::invalid_argument, operation, path, std::move(fault));
}

LockPermissions decide_lock_permissions(const std::optional<SessionPermissions>& session, bool has_acl,
                                        std::optional<mode_t> by_hand) {
  LockPermissions permissions;
  if (by_hand) {
    permissions.mode |= *by_hand & (S_IRGRP | S_IROTH);
    permissions.by_hand = true;
    if (session) {
      permissions.group = session->group;
    }
    return permissions;
  }
  if (!session || !S_ISREG(session->mode)) {
    return permissions;
  }
  if ((session->mode & S_IWGRP) != 0 && !has_acl) {
    permissions.mode |= S_IRGRP;
    permissions.group = session->group;
  }
  if ((session->mode & S_IWOTH) != 0) {
    permissions.mode |= S_IROTH;
  }
  return permissions;
}

LockPermissions lock_permissions(const SessionLocation& location, std::optional<mode_t> by_hand) {
  const auto& session = location.permissions;
  const bool acl_counts = !by_hand && session && (session->mode & S_IWGRP) != 0;
  return decide_lock_permissions(session, acl_counts && session_has_acl(location.session), by_hand);
}

Result<void> set_permissions(const sys::Fd& fd, const struct stat& made, const LockPermissions& permissions,
                             const Place& place) {
  mode_t mode = permissions.mode;
  if ((mode & S_IRGRP) != 0 && permissions.group) {
    const bool is_given = has_group(fd.get(), made, *permissions.group);
    if (!permissions.by_hand && !(is_given && has_no_acl(fd.get()))) {
      mode &= ~static_cast<mode_t>(S_IRGRP);
    }
  }
  if ((made.st_mode & k_permission_bits) == mode) {
    return {};
  }
  const auto changed = sys::fchmod(fd.get(), mode);
  return changed.ok() || !permissions.by_hand ? Result<void>{} : failure(changed.code(), "fchmod", place);
}

}  // namespace sessionlock
