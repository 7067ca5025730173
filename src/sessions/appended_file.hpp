#pragma once

/// \file
/// A regular file that is appended to, and that can be cut back to the size it had. It knows no lock: the caller sees
/// to it that nobody else who keeps to the lock writes meanwhile.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include <sys/stat.h>

#include <sessionlock/error.hpp>

#include "protocol/directory.hpp"
#include "system/file_status.hpp"
#include "system/system.hpp"

namespace sessionlock {

struct AppendedFile {
  sys::Fd fd{};
  FileIdentity identity{};
  /// For error messages.
  std::filesystem::path path{};

  /// Opens the file, or creates it with this mode, and reports its status. A symbolic link is not followed. Blocking: 5
  /// s at most, while another process gives up a lease on the file. Errors: those of the calls;
  /// `Errc::invalid_argument` if it is no regular file.
  [[nodiscard]] static Result<AppendedFile> open(const Directory& directory, const std::string& name, mode_t mode,
                                                 struct stat& status);
  /// Fills the buffer with what stands at `offset`. Errors: of `pread`; EIO if the file ends before that.
  [[nodiscard]] Result<void> read(std::uint64_t offset, char* buffer, std::size_t size) const;
  /// Whether a file of this size ends in the middle of a line.
  [[nodiscard]] Result<bool> ends_inside_line(std::uint64_t size) const;
  /// Appends to the file, which has `size` bytes now. Whatever fails, it is cut back to those; where that fails as
  /// well, the error's detail says so.
  [[nodiscard]] Result<void> append(std::string_view bytes, std::uint64_t size) const;
  [[nodiscard]] Result<void> truncate(std::uint64_t size) const;
  [[nodiscard]] Result<void> sync() const;
  /// Whether the `size` bytes from `start` on are its last, and are the same as those from `copy_start` on in `copy`.
  [[nodiscard]] Result<bool> ends_in_copy(std::uint64_t start, std::uint64_t size, const AppendedFile& copy,
                                          std::uint64_t copy_start) const;
  /// Cuts off `done` bytes that were appended to `size` bytes, unless others have written behind them. Returns what to
  /// say of bytes that stay; nothing if none does.
  [[nodiscard]] std::string cut_back(std::uint64_t size, std::uint64_t done) const;
};

/// Puts the name of a new file on stable storage, where that can be asked for. Errors: those of opening and syncing the
/// directory.
[[nodiscard]] Result<void> sync_directory(const Directory& directory);

}  // namespace sessionlock
