#pragma once

/// \file
/// What PID files and sentinels have in common: files at a path of their own that are published, looked at and removed
/// by the lock's protocol.

#include <chrono>
#include <filesystem>
#include <functional>
#include <string>

#include <sessionlock/error.hpp>

#include "protocol/lock_file.hpp"

namespace sessionlock {

/// The place that a path names; its directory must be there. A symbolic link at the end is not followed.
/// Errors: `Errc::invalid_argument` for a path that names no file; those of opening the directory.
[[nodiscard]] Result<Place> place_of(const std::filesystem::path& path);

/// Decides by what a file says now whether a killed publisher left it under a temporary name. `now`: by the clock of
/// the file's file system.
using IsLeftBehind = std::function<bool(const PinnedFile& file, const Place& place, WallTime now)>;
/// Removes the unfinished files that killed publishers of this file left in its directory, each under its `flock`. What
/// cannot be judged or removed stays.
void remove_files_left_behind(const std::filesystem::path& path, const IsLeftBehind& is_left_behind);

/// What an attempt came to: it is over, or another process was faster or had the file locked.
enum class Retry { done, again };
/// Repeats an attempt until it is done, for 5 s at most. Errors: `Errc::timed_out`; the attempt's own.
[[nodiscard]] Result<void> retry_while_busy(const std::string& operation, const std::filesystem::path& path,
                                            const std::function<Result<Retry>()>& attempt);

}  // namespace sessionlock
