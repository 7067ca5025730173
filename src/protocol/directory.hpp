#pragma once

/// \file
/// Directories held open, and names in them.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <sessionlock/error.hpp>

#include "protocol/file_system_traits.hpp"
#include "record/witness.hpp"
#include "system/system.hpp"

namespace sessionlock {

/// A directory, open as `O_PATH`, so that everything below is relative to it and a rename of it loses nothing. Shared
/// by all holds there and closed with the last: an idle one would keep its file system from being unmounted.
struct Directory {
  Directory(sys::Fd opened, const FileIdentity& found, std::string canonical, std::shared_ptr<FileSystemTraits> known,
            bool entries_stay)
      : fd(std::move(opened)),
        identity(found),
        path(std::move(canonical)),
        traits(std::move(known)),
        append_only(entries_stay) {}
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  ~Directory() = default;

  sys::Fd fd;
  FileIdentity identity;
  /// Canonical path when it was opened. Text, because taking a path to pieces costs more than the system calls here.
  std::string path;
  std::shared_ptr<FileSystemTraits> traits;
  /// Nothing that is made in it can be removed again (chattr(1), `a`).
  bool append_only;

  /// The path of something in it.
  [[nodiscard]] std::filesystem::path path_of(const std::string& name) const;
  /// It was removed: nothing can be created in it any more.
  [[nodiscard]] bool is_removed() const;
};
using DirectoryPtr = std::shared_ptr<const Directory>;

/// Opens a directory, or shares the one that is open already.
/// Errors: those of `openat`, `fstat`, `fstatfs`; the path is in the error.
[[nodiscard]] Result<DirectoryPtr> open_directory(const std::string& path);

/// Opens a directory inside an open one, for this caller alone. A symbolic link is none, so a walk never leaves the
/// tree. Errors: as `open_directory`.
[[nodiscard]] Result<DirectoryPtr> open_subdirectory(const Directory& parent, const std::string& name);

/// Tells every name in a directory. Lifetime of a name: the call it is told in. Errors: those of `openat`,
/// `getdents64`.
[[nodiscard]] Result<void> for_each_name(const Directory& directory, const std::function<void(std::string_view)>& tell);

/// A name in an open directory, for code that may not allocate. Lifetime: that of the directory and of the name.
struct PlaceView {
  int directory{-1};
  const char* name{nullptr};
  /// Nothing but this kernel changes the directory. Otherwise what it remembers of the directory may be out of date.
  bool is_local{true};
};

/// A name in a directory.
struct Place {
  DirectoryPtr directory;
  std::string name;

  [[nodiscard]] std::filesystem::path path() const { return directory->path_of(name); }
  [[nodiscard]] PlaceView view() const { return {directory->fd.get(), name.c_str(), directory->traits->local}; }
};

/// Makes sure that a look at the name, or an open of it, finds what is there now: where other kernels change the
/// directory as well, this kernel asks the server first. A local file system costs no call. Async-signal-safe.
sys::Outcome ask_about_names(const PlaceView& place) noexcept;

/// The path of a name in a directory.
[[nodiscard]] std::string join_path(const std::string& directory, std::string_view name);

/// Whether a path leads to this directory now. `flags`: those of fstatat(2); as it is, all links are followed.
[[nodiscard]] bool leads_to(const std::string& path, const FileIdentity& directory, int flags = 0);

/// The canonical path that a directory has now.
[[nodiscard]] std::string path_now(const Directory& directory);

}  // namespace sessionlock
