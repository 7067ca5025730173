#include "process/lock_list.hpp"

#include <fcntl.h>

#include "process/proc_text.hpp"
#include "process/procfs.hpp"
#include "system/system.hpp"

namespace sessionlock {

std::optional<bool> has_listed_ofd_lock(std::uint64_t inode, std::int64_t offset) {
  const auto locks = sys::open(AT_FDCWD, "/proc/locks", O_RDONLY);
  if (!locks.ok() || !is_procfs(locks.fd.get()) || offset < 0) {
    return std::nullopt;
  }
  // An OFD lock belongs to no process, so it is listed in every PID namespace (fs/locks.c, `locks_translate_pid`).
  const ProcText text = read_proc_text(locks.fd.get(), k_proc_text_bytes_max);
  return text.error == 0 ? lists_ofd_write_lock(text.content, inode, static_cast<std::uint64_t>(offset)) : std::nullopt;
}

}  // namespace sessionlock
