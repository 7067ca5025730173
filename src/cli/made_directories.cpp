#include "cli/made_directories.hpp"

#include <algorithm>
#include <system_error>
#include <utility>

#include <fmt/core.h>

#include "cli/exit_status.hpp"
#include "text/printable_text.hpp"

namespace sessionlock::cli {
namespace {

namespace fs = std::filesystem;

/// As many as the kernel follows (path_resolution(7)).
constexpr int k_links_max = 40;

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

/// Where a session that is a link leads, whether there is something or not.
fs::path followed(fs::path session) {
  std::error_code error;
  for (int links = 0; links < k_links_max && fs::is_symlink(fs::symlink_status(session, error)); ++links) {
    session = session.parent_path() / fs::read_symlink(session, error);
  }
  return session;
}

/// A directory and those above it, as far as they are missing, the uppermost first.
std::vector<fs::path> missing_from(fs::path directory) {
  std::vector<fs::path> missing;
  for (; !directory.empty() && !is_there(directory); directory = directory.parent_path()) {
    if (directory.has_filename()) {  // behind a slash at the end there is none
      missing.push_back(directory);
    }
  }
  std::reverse(missing.begin(), missing.end());
  return missing;
}

}  // namespace

MissingDirectories::MissingDirectories(const SessionArguments& arguments)
    : missing_(missing_from(followed(arguments.session).parent_path())) {
  for (auto& directory : missing_from(arguments.lock_directory)) {
    if (std::find(missing_.begin(), missing_.end(), directory) == missing_.end()) {
      missing_.push_back(std::move(directory));
    }
  }
}

void MissingDirectories::print_made() {
  for (const auto& directory : std::exchange(missing_, {})) {
    if (is_there(directory)) {
      print_error(fmt::format("made the directory {}", printable_text(directory.native())));
    }
  }
}

}  // namespace sessionlock::cli
