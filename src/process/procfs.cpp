#include "process/procfs.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <string>
#include <string_view>
#include <tuple>

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <unistd.h>

namespace sessionlock {
namespace {

constexpr std::size_t k_stat_bytes_max = 4096;
constexpr std::size_t k_chunk_bytes = std::size_t{16} * 1024;

/// Whether a pid means the same in this `/proc` as in kill(2).
struct Numbering {
  bool own{};
  std::uint64_t device{};
  int error{};
};

/// `/proc/self` naming our pid is necessary but not enough: a process can have the same number in two namespaces.
/// `NSpid` settles it, which is slower, and is not asked again on the device where it was (`trusted_device`).
Numbering numbering_of(int proc, std::uint64_t trusted_device) {
  std::array<char, 16> link{};
  const auto length = sys::readlinkat(proc, "self", link.data(), link.size());
  if (!length.ok()) {
    return {false, 0, length.error};
  }
  const auto self = parse_pid({link.data(), static_cast<std::size_t>(length.value)});
  if (self != ::getpid()) {
    return {};
  }
  struct stat status {};
  if (const auto asked = sys::fstat(proc, status); !asked.ok()) {
    return {false, 0, asked.error};
  }
  if (status.st_dev == trusted_device) {
    return {true, trusted_device, 0};
  }
  if (!is_procfs(proc)) {
    return {};
  }
  const ProcText text = read_proc_file(proc, "self/status", k_proc_text_bytes_max);
  if (text.error != 0 || !status_is_of_own_namespace(text.content)) {
    return {false, 0, text.error};
  }
  return {true, status.st_dev, 0};
}

}  // namespace

// INVARIANT: each chunk begins where the last one ended, so that a file of `/proc` goes on with the text it made for
// the first (fs/seq_file.c, `read_pos`).
ProcText read_proc_text(int fd, std::size_t bytes_max) {
  ProcText result;
  std::size_t size = 0;
  while (size < bytes_max) {
    result.content.resize(std::min(size + k_chunk_bytes, bytes_max));
    const auto read = sys::pread(fd, result.content.data() + size, result.content.size() - size, size);
    if (!read.ok()) {
      return {{}, read.error};
    }
    if (read.value == 0) {
      break;
    }
    size += static_cast<std::size_t>(read.value);
  }
  result.content.resize(size);
  return result;
}

ProcText read_proc_file(int directory, const char* path, std::size_t bytes_max) {
  const auto file = sys::open(directory, path, O_RDONLY);
  return file.ok() ? read_proc_text(file.fd.get(), bytes_max) : ProcText{{}, file.error};
}

sys::Opened open_proc() {
  return sys::open(AT_FDCWD, "/proc", O_PATH | O_DIRECTORY);
}

bool is_procfs(int fd) {
  sys::FileSystem file_system;
  return sys::fstatfs(fd, file_system).ok() && file_system.type == PROC_SUPER_MAGIC;
}

StatRead read_stat(pid_t pid, std::uint64_t trusted_device) {
  const auto proc = open_proc();
  if (!proc.ok()) {
    return {{}, 0, proc.error};
  }
  const auto numbering = numbering_of(proc.fd.get(), trusted_device);
  if (!numbering.own) {
    return {{}, 0, numbering.error};
  }
  const ProcText text = read_proc_file(proc.fd.get(), (std::to_string(pid) + "/stat").c_str(), k_stat_bytes_max);
  return {text.error == 0 ? parse_proc_stat(text.content) : std::nullopt, numbering.device, text.error};
}

DescriptorLink descriptor_link(int fd) noexcept {
  constexpr std::string_view k_prefix = "/proc/thread-self/fd/";
  static_assert(k_prefix.size() + std::numeric_limits<int>::digits10 + 2 <= std::tuple_size_v<DescriptorLink>);
  DescriptorLink link{};
  char* const digits = std::copy(k_prefix.begin(), k_prefix.end(), link.begin());
  (void)std::to_chars(digits, link.data() + link.size() - 1, std::max(fd, -1));
  return link;
}

}  // namespace sessionlock
