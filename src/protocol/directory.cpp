#include "protocol/directory.hpp"

#include <array>
#include <cerrno>
#include <climits>
#include <map>
#include <mutex>

#include <fcntl.h>

#include "process/procfs.hpp"
#include "system/file_status.hpp"
#include "system/paths.hpp"
#include "system/per_process.hpp"
#include "verdict/failure.hpp"

namespace sessionlock {
namespace {

constexpr std::size_t k_remembered_paths_max = 256;

/// What asking about a directory gave.
struct KnownDirectory {
  FileIdentity identity;
  std::uint64_t mount{0};
  std::shared_ptr<FileSystemTraits> traits;
  std::string canonical;
};

/// What is remembered of directories: the open ones, and the canonical paths of some that were open.
struct Directories {
  struct Remembered {
    std::shared_ptr<const KnownDirectory> known;
    std::weak_ptr<const Directory> open;
  };
  std::mutex mutex;
  std::map<std::string, Remembered> by_path;
};
PerProcess<Directories> g_directories;

/// The kernel's own name for an open directory; without `/proc`, what is made of the path.
std::string canonical_path(int fd, const std::string& path) {
  std::array<char, PATH_MAX> buffer{};
  const auto length = sys::readlinkat(AT_FDCWD, descriptor_link(fd).data(), buffer.data(), buffer.size());
  if (length.ok() && length.value > 0 && static_cast<std::size_t>(length.value) < buffer.size() && buffer[0] == '/') {
    return {buffer.data(), static_cast<std::size_t>(length.value)};
  }
  std::error_code error;
  const auto canonical = sys::canonical(path, error);
  return error ? std::filesystem::absolute(path).lexically_normal().native() : canonical.native();
}

/// Whether the canonical path of a directory that this path leads to is still right. What is its own canonical path
/// leads there by definition; anything else may have been renamed since, together with the link that led to it, and
/// what lies at its old path may be another directory.
bool is_canonical_now(const FileIdentity& directory, const std::string& canonical, const std::string& path) {
  return canonical == path || leads_to(canonical, directory, AT_SYMLINK_NOFOLLOW);
}

/// Whether a directory is open still, and this path still leads to it. Its descriptor is asked too: a program that
/// becomes a daemon closes and reuses numbers it never opened, and a lock must not be published there.
bool is_usable(const Directory& open, const std::string& path) {
  return open.fd.is_usable() && leads_to(path, open.identity) && is_canonical_now(open.identity, open.path, path);
}

/// What is remembered of the directory that this path led to.
struct Recalled {
  std::shared_ptr<const KnownDirectory> known{};
  DirectoryPtr open{};
};
Recalled recall(Directories& directories, const std::string& path) {
  const std::lock_guard lock(directories.mutex);
  const auto found = directories.by_path.find(path);
  if (found == directories.by_path.end()) {
    return {};
  }
  return {found->second.known, found->second.open.lock()};
}

struct ExaminedDirectory {
  sys::Fd fd;
  std::shared_ptr<const KnownDirectory> known;
  bool append_only;
};

/// What a freshly opened directory is. What is remembered, if anything, saves asking what a mount has been asked
/// before; where it is another directory than that one, its canonical path is not known yet.
Result<ExaminedDirectory> examine(sys::Opened opened, const std::string& path,
                                  std::shared_ptr<const KnownDirectory> remembered) {
  if (!opened.ok()) {
    return failure(opened.code(), "open directory", path);
  }
  sys::DirectoryIdentity found;
  if (const auto result = sys::identify_directory(opened.fd.get(), found); !result.ok()) {
    return failure(result.code(), "statx", path);
  }
  const FileIdentity identity{found.device, found.inode};
  opened.fd.expect(identity);
  if (!remembered || remembered->identity != identity || remembered->mount != found.mount || found.mount == 0) {
    sys::FileSystem file_system;
    if (const auto result = sys::fstatfs(opened.fd.get(), file_system); !result.ok()) {
      return failure(result.code(), "fstatfs", path);
    }
    remembered = std::make_shared<const KnownDirectory>(
        KnownDirectory{identity, found.mount, traits_of(identity.device, found.mount, file_system), {}});
  }
  return ExaminedDirectory{std::move(opened.fd), std::move(remembered), found.append_only};
}

/// Gives a freshly opened directory its canonical path, and shares it.
DirectoryPtr share(Directories& directories, const std::string& path, ExaminedDirectory&& fresh) {
  auto known = std::move(fresh.known);
  if (known->canonical.empty() || !is_canonical_now(known->identity, known->canonical, path)) {
    known = std::make_shared<const KnownDirectory>(
        KnownDirectory{known->identity, known->mount, known->traits, canonical_path(fresh.fd.get(), path)});
  }
  auto directory = std::make_shared<const Directory>(std::move(fresh.fd), known->identity, known->canonical,
                                                     known->traits, fresh.append_only);
  const std::lock_guard lock(directories.mutex);
  if (directories.by_path.size() >= k_remembered_paths_max) {
    directories.by_path.clear();
  }
  auto& remembered = directories.by_path[path];
  remembered.known = std::move(known);
  remembered.open = directory;
  return directory;
}

}  // namespace

std::string join_path(const std::string& directory, std::string_view name) {
  std::string path;
  path.reserve(directory.size() + 1 + name.size());
  path += directory;
  if (!path.ends_with('/')) {
    path += '/';
  }
  return path += name;
}

sys::Outcome ask_about_names(const PlaceView& place) noexcept {
  return place.is_local ? sys::Outcome{} : sys::ask_server_about(place.directory);
}

bool leads_to(const std::string& path, const FileIdentity& directory, int flags) {
  struct stat status {};
  return sys::fstatat(AT_FDCWD, path.c_str(), status, flags).ok() && identity_of(status) == directory;
}

std::string path_now(const Directory& directory) {
  return canonical_path(directory.fd.get(), directory.path);
}

bool Directory::is_removed() const {
  struct stat status {};
  return sys::fstat(fd.get(), status).ok() && status.st_nlink == 0;
}

std::filesystem::path Directory::path_of(const std::string& name) const {
  return join_path(path, name);
}

Result<void> for_each_name(const Directory& directory, const std::function<void(std::string_view)>& tell) {
  const auto opened = sys::open(directory.fd.get(), ".", O_RDONLY | O_DIRECTORY);
  if (!opened.ok()) {
    return failure(opened.code(), "openat", directory.path);
  }
  const auto read = sys::read_names(opened.fd.get(), tell);
  return read.ok() ? Result<void>{} : failure(read.code(), "getdents64", directory.path);
}

Result<DirectoryPtr> open_directory(const std::string& path) {
  Directories& directories = g_directories.get();
  auto recalled = recall(directories, path);
  if (recalled.open && is_usable(*recalled.open, path)) {
    return std::move(recalled.open);
  }
  auto fresh = examine(sys::open(AT_FDCWD, path.c_str(), O_PATH | O_DIRECTORY), path, std::move(recalled.known));
  if (!fresh) {
    return tl::unexpected(std::move(fresh).error());
  }
  return share(directories, path, std::move(*fresh));
}

Result<DirectoryPtr> open_subdirectory(const Directory& parent, const std::string& name) {
  const std::string path = join_path(parent.path, name);
  auto fresh = examine(sys::open(parent.fd.get(), name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW), path, nullptr);
  if (!fresh) {
    return tl::unexpected(std::move(fresh).error());
  }
  return std::make_shared<const Directory>(std::move(fresh->fd), fresh->known->identity, path, fresh->known->traits,
                                           fresh->append_only);
}

}  // namespace sessionlock
