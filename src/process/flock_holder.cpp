#include "process/flock_holder.hpp"

#include <algorithm>
#include <string>
#include <string_view>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "process/proc_text.hpp"
#include "process/procfs.hpp"
#include "system/file_status.hpp"
#include "system/system.hpp"

namespace sessionlock {
namespace {

/// An inotify instance lists all that it watches.
constexpr std::size_t k_fdinfo_bytes_max = std::size_t{64} * 1024;

/// For stat(2) each subvolume of a btrfs, and each layer of some overlays, is a device of its own; for the kernel's
/// list of locks all of it is one (fs/locks.c, `lock_get_status` prints `i_sb->s_dev`).
bool may_have_two_numbers(std::string_view type) {
  return type == "btrfs" || type == "overlay";
}

/// Whether a process has its `flock` on this file. Of its descriptors only the one that it was taken through is
/// followed to its file: what another file system has would have to be asked for there, and its server may not answer.
bool has_on(const ListedFlock& flock, const FileIdentity& file) {
  const std::string process = "/proc/" + std::to_string(flock.pid);
  const auto descriptors = sys::open(AT_FDCWD, (process + "/fdinfo").c_str(), O_RDONLY | O_DIRECTORY);
  bool found = false;
  if (descriptors.ok()) {
    (void)sys::read_names(descriptors.fd.get(), [&](std::string_view name) {
      const std::string number(name);
      if (found || name.starts_with('.') ||
          !has_flock_line(read_proc_file(descriptors.fd.get(), number.c_str(), k_fdinfo_bytes_max).content, flock.major,
                          flock.minor, file.inode)) {
        return;
      }
      struct stat status {};
      found =
          sys::fstatat(AT_FDCWD, (process + "/fd/" + number).c_str(), status, 0).ok() && identity_of(status) == file;
    });
  }
  return found;
}

}  // namespace

std::optional<pid_t> flock_holder(const FileIdentity& file) {
  const ProcText locks = read_proc_file(AT_FDCWD, "/proc/locks", k_proc_text_bytes_max);
  if (const auto pid = parse_flock_holder(locks.content, major(file.device), minor(file.device), file.inode)) {
    return pid;
  }
  const auto others = parse_flocks(locks.content, file.inode);
  if (others.empty()) {
    return std::nullopt;
  }
  const ProcText mounts = read_proc_file(AT_FDCWD, "/proc/thread-self/mountinfo", k_proc_text_bytes_max);
  const auto found = std::find_if(others.begin(), others.end(), [&](const ListedFlock& flock) {
    return may_have_two_numbers(mounted_type(mounts.content, flock.major, flock.minor)) && has_on(flock, file);
  });
  return found != others.end() ? std::optional(found->pid) : std::nullopt;
}

}  // namespace sessionlock
