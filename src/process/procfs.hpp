#pragma once

/// \file
/// Reading `/proc`, where its pids are those that this process knows.

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include <sys/types.h>

#include "process/proc_text.hpp"
#include "system/system.hpp"

namespace sessionlock {

/// `/proc/self/status` lists up to 65536 groups; `/proc/stat` counts every interrupt; `/proc/locks` has every lock of
/// the machine.
inline constexpr std::size_t k_proc_text_bytes_max = std::size_t{4} * 1024 * 1024;

/// What a file says, or the errno of why it cannot be read.
struct ProcText {
  std::string content{};
  int error{};
};
/// Reads an open file from its beginning, up to the end or the bound.
[[nodiscard]] ProcText read_proc_text(int fd, std::size_t bytes_max);
/// The same for a path, from an open directory.
[[nodiscard]] ProcText read_proc_file(int directory, const char* path, std::size_t bytes_max);

/// `/proc` as it is mounted now: all that is read for one answer comes from one mount.
[[nodiscard]] sys::Opened open_proc();
/// Whether an open file is the kernel's own: containers are given other files under these names.
[[nodiscard]] bool is_procfs(int fd);

/// What was read of a process. No `stat` and error 0: malformed, or the pids of this `/proc` are not ours.
struct StatRead {
  std::optional<ProcStat> stat{};
  /// Of the `/proc` that was seen to number processes as this process does; 0 if it does not.
  std::uint64_t device{};
  int error{};
};
/// Reads `/proc/<pid>/stat`. `trusted_device` is that of a `/proc` which was seen to have our pids before, or 0.
[[nodiscard]] StatRead read_stat(pid_t pid, std::uint64_t trusted_device);

/// `/proc/thread-self/fd/<fd>`: a path to what an open descriptor refers to, for calls that want a path. Not
/// `/proc/self`, which has no descriptors any more once the main thread has ended. Async-signal-safe.
using DescriptorLink = std::array<char, 32>;
[[nodiscard]] DescriptorLink descriptor_link(int fd) noexcept;

}  // namespace sessionlock
