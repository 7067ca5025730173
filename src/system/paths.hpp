#pragma once

/// \file
/// What is done with paths by name, rather than with descriptors. The only file that uses Boost.Filesystem.
/// Errors: each call clears `error`, or sets it to that of the system call that failed.

#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

namespace sessionlock::sys {

/// The path with all symbolic links resolved.
[[nodiscard]] std::filesystem::path canonical(const std::filesystem::path& path, std::error_code& error);
/// The same for a path whose end need not exist.
[[nodiscard]] std::filesystem::path weakly_canonical(const std::filesystem::path& path, std::error_code& error);

void create_directory(const std::filesystem::path& path, std::error_code& error);
/// With all that are missing above it.
void create_directories(const std::filesystem::path& path, std::error_code& error);
/// A file, or a directory with everything in it.
void remove_all(const std::filesystem::path& path, std::error_code& error);

/// The names of the directories in a directory, in any order. Symbolic links are none.
[[nodiscard]] std::vector<std::string> subdirectories(const std::filesystem::path& path, std::error_code& error);

}  // namespace sessionlock::sys
