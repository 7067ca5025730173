#include "protocol/inode_guard.hpp"

#include <cerrno>

#include <fcntl.h>
#include <sys/file.h>

namespace sessionlock {
namespace {

Step try_lock(int fd, bool is_local) noexcept {
  const auto locked = sys::flock(fd, LOCK_EX | LOCK_NB);
  if (locked.ok()) {
    return {};
  }
  return is_locked_by_another(locked.error, is_local) ? Step{Step::Answer::busy}
                                                      : Step{Step::Answer::failed, sys::Call::flock, locked.error};
}

}  // namespace

bool is_locked_by_another(int error, bool is_local) noexcept {
  return error == EWOULDBLOCK || (error == EACCES && !is_local);
}

// Without the question to the server, where other kernels change the directory too: 1. A publishes inode 7; its kernel
// remembers that the name is inode 7's. 2. B, on another host, removes the lock by force and publishes inode 8. 3. A's
// kernel answers from memory that the name is inode 7's: A writes beside B, and its release removes B's lock.
Step names_inode(const PlaceView& place, const FileIdentity& file) noexcept {
  if (const auto asked = ask_about_names(place); !asked.ok()) {
    return {Step::Answer::failed, sys::Call::statx, asked.error};
  }
  struct stat status {};
  const auto found = sys::fstatat(place.directory, place.name, status, AT_SYMLINK_NOFOLLOW);
  if (found.ok()) {
    return {identity_of(status) == file ? Step::Answer::done : Step::Answer::other};
  }
  return found.error == ENOENT ? Step{Step::Answer::other}
                               : Step{Step::Answer::failed, sys::Call::fstatat, found.error};
}

Step try_enter_guard(const PlaceView& place, int fd, const FileIdentity& file) noexcept {
  if (const Step locked = try_lock(fd, place.is_local); locked.answer != Step::Answer::done) {
    return locked;
  }
  const Step same = names_inode(place, file);
  if (same.answer != Step::Answer::done) {
    (void)leave_guard(fd);
  }
  return same;
}

Step leave_guard(int fd) noexcept {
  const auto unlocked = sys::flock(fd, LOCK_UN);
  return unlocked.ok() ? Step{} : Step{Step::Answer::failed, sys::Call::flock, unlocked.error};
}

InodeGuard InodeGuard::lock(const PlaceView& place, int fd) noexcept {
  return {fd, try_lock(fd, place.is_local)};
}

InodeGuard InodeGuard::enter(const PlaceView& place, int fd, const FileIdentity& file) noexcept {
  return {fd, try_enter_guard(place, fd, file)};
}

Error to_error(const Step& step, const std::filesystem::path& path) {
  return {{step.error, std::system_category()}, std::string(sys::to_string(step.call)), path, std::nullopt, {}};
}

}  // namespace sessionlock
