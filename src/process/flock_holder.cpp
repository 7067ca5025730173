#include "process/flock_holder.hpp"

#include <algorithm>
#include <string>
#include <string_view>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "process/proc_text.hpp"
#include "process/procfs.hpp"
#include "system/system.hpp"

namespace sessionlock {
namespace {

/// Whether a process is seen to have this file open.
bool has_open(pid_t pid, const FileIdentity& file) {
  const auto descriptors =
      sys::open(AT_FDCWD, ("/proc/" + std::to_string(pid) + "/fd").c_str(), O_RDONLY | O_DIRECTORY);
  bool found = false;
  if (descriptors.ok()) {
    (void)sys::read_names(descriptors.fd.get(), [&](std::string_view name) {
      struct stat status {};
      found = found || (sys::fstatat(descriptors.fd.get(), std::string(name).c_str(), status, 0).ok() &&
                        status.st_dev == file.device && status.st_ino == file.inode);
    });
  }
  return found;
}

}  // namespace

std::optional<pid_t> flock_holder(const FileIdentity& file) {
  const ProcText text = read_proc_file(AT_FDCWD, "/proc/locks", k_proc_text_bytes_max);
  if (const auto pid = parse_flock_holder(text.content, major(file.device), minor(file.device), file.inode)) {
    return pid;
  }
  // For stat(2) each subvolume of a btrfs is a device of its own, for /proc/locks all of it is one (fs/locks.c,
  // lock_get_status tells `i_sb->s_dev`): see who has the file open.
  const auto pids = parse_flock_pids(text.content, file.inode);
  const auto found = std::find_if(pids.begin(), pids.end(), [&](pid_t pid) { return has_open(pid, file); });
  return found != pids.end() ? std::optional(*found) : std::nullopt;
}

}  // namespace sessionlock
