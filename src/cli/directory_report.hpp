#pragma once

/// \file
/// What `list` and `clean` have in common: a directory of locks is gone through and reported.

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

#include <sessionlock/error.hpp>
#include <sessionlock/sweep.hpp>

#include "cli/parser.hpp"

namespace sessionlock::cli {

struct DirectoryArguments {
  std::string directory{};
  SweepOptions sweep{};
  bool json{false};
};
/// `DIR`, `--recursive`, `--suffix` and `--json`. `check_suffix` returns why a suffix is refused; empty if it is not.
void add_directory_options(OptionTable& table, DirectoryArguments& arguments, const Reader& check_suffix = {});

/// Sweeps the directory, with a progress bar on a terminal. Unlike the library's sweep this fails for a missing
/// directory, because the user named it.
[[nodiscard]] Result<SweepReport> sweep_directory(const DirectoryArguments& arguments, std::string_view work);

/// The directory as inspections have it in their paths.
[[nodiscard]] std::filesystem::path canonical_directory(const DirectoryArguments& arguments);

/// Prints the report as one JSON document.
void print_json(const DirectoryArguments& arguments, const SweepReport& report);

/// Prints every error, and returns the exit status: that of the first, or 0.
int fail_for(const SweepReport& report);

/// The line for a directory without locks. Mentions `--suffix` where other names end in `.lock`.
[[nodiscard]] std::string no_locks_words(const DirectoryArguments& arguments, const SweepReport& report);

/// How many locks an acquire would take over, but may not remove.
[[nodiscard]] std::size_t obstacle_count(const SweepReport& report);

/// `, 1 could not be removed, 2 entries could not be judged`; empty where nothing went wrong.
[[nodiscard]] std::string error_count_words(const DirectoryArguments& arguments, const SweepReport& report);

/// `1 lock`, `7 locks`.
[[nodiscard]] std::string count_words(std::size_t count, std::string_view what);

}  // namespace sessionlock::cli
