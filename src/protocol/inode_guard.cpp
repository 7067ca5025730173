#include "protocol/inode_guard.hpp"

#include <cerrno>

#include <fcntl.h>
#include <sys/file.h>

namespace sessionlock {
namespace {

Step try_lock(int fd) noexcept {
  const auto locked = sys::flock(fd, LOCK_EX | LOCK_NB);
  if (locked.ok()) {
    return {};
  }
  return locked.error == EWOULDBLOCK ? Step{Step::Answer::busy}
                                     : Step{Step::Answer::failed, sys::Call::flock, locked.error};
}

}  // namespace

Step names_inode(int directory, const char* name, const FileIdentity& file) noexcept {
  struct stat status {};
  const auto found = sys::fstatat(directory, name, status, AT_SYMLINK_NOFOLLOW);
  if (found.ok()) {
    return {identity_of(status) == file ? Step::Answer::done : Step::Answer::other};
  }
  return found.error == ENOENT ? Step{Step::Answer::other}
                               : Step{Step::Answer::failed, sys::Call::fstatat, found.error};
}

Step try_enter_guard(int directory, const char* name, int fd, const FileIdentity& file) noexcept {
  if (const Step locked = try_lock(fd); locked.answer != Step::Answer::done) {
    return locked;
  }
  const Step same = names_inode(directory, name, file);
  if (same.answer != Step::Answer::done) {
    (void)leave_guard(fd);
  }
  return same;
}

Step leave_guard(int fd) noexcept {
  const auto unlocked = sys::flock(fd, LOCK_UN);
  return unlocked.ok() ? Step{} : Step{Step::Answer::failed, sys::Call::flock, unlocked.error};
}

InodeGuard InodeGuard::lock(int fd) noexcept {
  return {fd, try_lock(fd)};
}

InodeGuard InodeGuard::enter(int directory, const char* name, int fd, const FileIdentity& file) noexcept {
  return {fd, try_enter_guard(directory, name, fd, file)};
}

Error to_error(const Step& step, const std::filesystem::path& path) {
  return {{step.error, std::system_category()}, std::string(sys::to_string(step.call)), path, std::nullopt, {}};
}

}  // namespace sessionlock
