#pragma once

/// \file
/// Prints which directories an acquire made: `--verbose`.

#include <filesystem>
#include <vector>

#include "cli/arguments.hpp"

namespace sessionlock::cli {

/// The directories that were missing when this was made: those above a session, and the directory of locks with those
/// above it.
class MissingDirectories {
 public:
  explicit MissingDirectories(const SessionArguments& arguments);
  /// Prints those that are there now, each once.
  void print_made();

 private:
  std::vector<std::filesystem::path> missing_{};
};

}  // namespace sessionlock::cli
