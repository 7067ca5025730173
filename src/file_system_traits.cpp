#include "file_system_traits.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <tuple>

#include <linux/magic.h>

#include "per_process.hpp"

namespace sessionlock {
namespace {

// Not in every <linux/magic.h>: from each file system's own header in the kernel's tree.
constexpr std::uint64_t k_zfs_magic = 0x2fc12fc1;
constexpr std::uint64_t k_bcachefs_magic = 0xca451a4e;
constexpr std::uint64_t k_xfs_magic = 0x58465342;

constexpr std::size_t k_file_systems_max = 1024;

struct Known {
  using Key = std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>;
  std::mutex mutex;
  std::map<Key, std::shared_ptr<FileSystemTraits>> traits;
};
PerProcess<Known> g_known;

}  // namespace

bool is_local_file_system(std::uint64_t type) noexcept {
  constexpr std::array<std::uint64_t, 8> k_local = {EXT4_SUPER_MAGIC,  // also ext2 and ext3
                                                    k_xfs_magic,          BTRFS_SUPER_MAGIC, F2FS_SUPER_MAGIC,
                                                    k_zfs_magic,          k_bcachefs_magic,  TMPFS_MAGIC,
                                                    OVERLAYFS_SUPER_MAGIC};
  return std::find(k_local.begin(), k_local.end(), type) != k_local.end();
}

std::shared_ptr<FileSystemTraits> traits_of(std::uint64_t device, const sys::FileSystem& file_system) {
  Known& known = g_known.get();
  const std::lock_guard lock(known.mutex);
  if (known.traits.size() >= k_file_systems_max) {
    known.traits.clear();  // only memory of answers: they are found out again
  }
  auto& traits = known.traits[{device, file_system.type, file_system.id}];
  if (!traits) {
    traits = std::make_shared<FileSystemTraits>();
    traits->local = is_local_file_system(file_system.type);
  }
  return traits;
}

}  // namespace sessionlock
