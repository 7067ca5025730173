#pragma once

/// \file
/// The command's exit statuses (sysexits.h numbers), and how errors become one.

#include <string_view>
#include <system_error>

#include <sessionlock/error.hpp>

namespace sessionlock::cli {

inline constexpr int k_done = 0;
/// An error of ours that fits none of the others.
inline constexpr int k_failed = 1;
inline constexpr int k_usage = 64;
inline constexpr int k_bad_data = 65;
inline constexpr int k_no_such_file = 66;
inline constexpr int k_cannot_create = 73;
inline constexpr int k_io_error = 74;
/// Locked, or the wait ran out.
inline constexpr int k_locked = 75;
inline constexpr int k_no_permission = 77;
/// As shells have them, for a program that cannot be executed, and for one that is not there.
inline constexpr int k_cannot_execute = 126;
inline constexpr int k_not_found = 127;
/// Added to the number of the signal that ended a program.
inline constexpr int k_signal_base = 128;

/// The exit status for an error. The only place where one becomes the other.
[[nodiscard]] int exit_status(const std::error_code& code);

/// Writes one line to standard error: `sessionlock: ` and the words. In one write, so that lines of several processes
/// do not mix.
void print_error(std::string_view words);

/// Prints an error and returns its exit status.
int fail(const Error& error);

}  // namespace sessionlock::cli
