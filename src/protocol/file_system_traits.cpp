#include "protocol/file_system_traits.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <string_view>
#include <tuple>

#include <fmt/core.h>
#include <linux/magic.h>

#include "system/per_process.hpp"

namespace sessionlock {
namespace {

// Not in every <linux/magic.h>: from each file system's own header in the kernel's tree.
constexpr std::uint64_t k_zfs_magic = 0x2fc12fc1;
constexpr std::uint64_t k_bcachefs_magic = 0xca451a4e;
constexpr std::uint64_t k_xfs_magic = 0x58465342;

constexpr std::size_t k_file_systems_max = 1024;

struct Known {
  using Key = std::tuple<std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t>;
  std::mutex mutex;
  std::map<Key, std::shared_ptr<FileSystemTraits>> traits;
};
PerProcess<Known> g_known;

}  // namespace

Locality locality_of(std::uint64_t type) noexcept {
  constexpr std::array<std::uint64_t, 7> k_local = {EXT4_SUPER_MAGIC,  // also ext2 and ext3
                                                    k_xfs_magic,      BTRFS_SUPER_MAGIC, F2FS_SUPER_MAGIC,
                                                    k_zfs_magic,      k_bcachefs_magic,  TMPFS_MAGIC};
  if (type == OVERLAYFS_SUPER_MAGIC) {
    return Locality::overlay;
  }
  return std::find(k_local.begin(), k_local.end(), type) != k_local.end() ? Locality::local : Locality::unknown;
}

std::string file_system_name(std::uint64_t type) {
  struct Named {
    std::uint64_t type;
    std::string_view name;
  };
  constexpr std::array<Named, 22> k_named = {
      {{EXT4_SUPER_MAGIC, "ext4"},  {k_xfs_magic, "xfs"},         {BTRFS_SUPER_MAGIC, "btrfs"},
       {F2FS_SUPER_MAGIC, "f2fs"},  {k_zfs_magic, "zfs"},         {k_bcachefs_magic, "bcachefs"},
       {TMPFS_MAGIC, "tmpfs"},      {RAMFS_MAGIC, "ramfs"},       {OVERLAYFS_SUPER_MAGIC, "overlay"},
       {NFS_SUPER_MAGIC, "nfs"},    {SMB_SUPER_MAGIC, "smb"},     {SMB2_SUPER_MAGIC, "smb2"},
       {CIFS_SUPER_MAGIC, "cifs"},  {FUSE_SUPER_MAGIC, "fuse"},   {V9FS_MAGIC, "9p"},
       {CEPH_SUPER_MAGIC, "ceph"},  {AFS_FS_MAGIC, "afs"},        {CODA_SUPER_MAGIC, "coda"},
       {MSDOS_SUPER_MAGIC, "vfat"}, {EXFAT_SUPER_MAGIC, "exfat"}, {ECRYPTFS_SUPER_MAGIC, "ecryptfs"},
       {PROC_SUPER_MAGIC, "proc"}}};
  const auto found =
      std::find_if(k_named.begin(), k_named.end(), [&](const Named& named) { return named.type == type; });
  return found == k_named.end() ? fmt::format("{:#x}", type) : std::string{found->name};
}

std::shared_ptr<FileSystemTraits> traits_of(std::uint64_t device, std::uint64_t mount,
                                            const sys::FileSystem& file_system) {
  const Locality locality = locality_of(file_system.type);
  const bool is_local = locality != Locality::unknown;
  if (!is_local && mount == 0) {
    return std::make_shared<FileSystemTraits>();
  }
  Known& known = g_known.get();
  const std::lock_guard lock(known.mutex);
  if (known.traits.size() >= k_file_systems_max) {
    known.traits.clear();  // only memory of answers: they are found out again
  }
  auto& traits = known.traits[{device, is_local ? 0 : mount, file_system.type, file_system.id}];
  if (!traits) {
    traits = std::make_shared<FileSystemTraits>();
    traits->locality = locality;
    traits->local = is_local;
  }
  return traits;
}

}  // namespace sessionlock
