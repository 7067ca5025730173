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

/// What to do where there is no file.
enum class Missing { create, fail };

struct AppendedFile {
  sys::Fd fd{};
  FileIdentity identity{};
  /// For error messages.
  std::filesystem::path path{};
  /// It was not there before.
  bool is_new{false};

  /// Opens the file, or creates it with this mode, and reports its status. A symbolic link is not followed. Blocking: 5
  /// s at most, while another process gives up a lease on the file. Errors: those of the calls;
  /// `Errc::invalid_argument` if it is no regular file.
  [[nodiscard]] static Result<AppendedFile> open(const Directory& directory, const std::string& name, mode_t mode,
                                                 struct stat& status, Missing missing = Missing::create);
  /// Fills the buffer with what stands at `offset`. Errors: of `pread`; EIO if the file ends before that.
  [[nodiscard]] Result<void> read(std::uint64_t offset, char* buffer, std::size_t size) const;
  /// Where the first byte from `start` on stands that is not in a hole, or `end` if that comes before. Where the file
  /// system does not say, all is data.
  [[nodiscard]] std::uint64_t next_data(std::uint64_t start, std::uint64_t end) const;
  /// Where the last byte before `end` ends that is not in a hole; 0 if there is none. As `next_data`.
  [[nodiscard]] std::uint64_t data_end_before(std::uint64_t end) const;
  /// Whether a file of this size ends in the middle of a line.
  [[nodiscard]] Result<bool> ends_inside_line(std::uint64_t size) const;
  /// Appends to the file, which has `size` bytes now. Whatever fails, it is cut back to those; where that fails as
  /// well, the error's detail says so.
  [[nodiscard]] Result<void> append(std::string_view bytes, std::uint64_t size) const;
  /// Changes its size; bytes that it gains are a hole.
  [[nodiscard]] Result<void> truncate(std::uint64_t size) const;
  [[nodiscard]] Result<void> sync() const;
  /// Whether the bytes from `start` to `end` are the same as those from `other_start` on in another file.
  [[nodiscard]] Result<bool> equals(std::uint64_t start, std::uint64_t end, const AppendedFile& other,
                                    std::uint64_t other_start) const;
  /// Cuts off `done` bytes that were appended to `size` bytes, unless others have written behind them. Returns what to
  /// say of bytes that stay; nothing if none does.
  [[nodiscard]] std::string cut_back(std::uint64_t size, std::uint64_t done) const;
};

/// Puts the name of a new file on stable storage, where that can be asked for. Errors: those of opening and syncing the
/// directory.
[[nodiscard]] Result<void> sync_directory(const Directory& directory);

}  // namespace sessionlock
