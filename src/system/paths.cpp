#include "system/paths.hpp"

#include <boost/filesystem/directory.hpp>
#include <boost/filesystem/exception.hpp>
#include <boost/filesystem/operations.hpp>
#include <boost/filesystem/path.hpp>

#include "system/cancellation.hpp"

namespace sessionlock::sys {
namespace {

namespace bfs = boost::filesystem;
using BoostError = boost::system::error_code;

std::error_code to_standard(const BoostError& error) {
  return error ? std::error_code(error.value(), std::system_category()) : std::error_code();
}

/// Boost keeps the paths `.` and `..`, to compare with, in objects that are made when they are first needed and
/// destroyed at exit. Made first of all they outlive every static object of a program; and no child is forked while a
/// thread that it does not have makes them.
[[gnu::constructor(101)]] void make_paths_first() {
  (void)bfs::path("a/./..").lexically_normal();
}

}  // namespace

std::filesystem::path canonical(const std::filesystem::path& path, std::error_code& error) {
  const CancellationDisabled disabled;
  BoostError failed;
  const auto found = bfs::canonical(bfs::path(path.native()), failed);
  error = to_standard(failed);
  return found.native();
}

std::filesystem::path weakly_canonical(const std::filesystem::path& path, std::error_code& error) {
  const CancellationDisabled disabled;
  BoostError failed;
  const auto found = bfs::weakly_canonical(bfs::path(path.native()), failed);
  error = to_standard(failed);
  return found.native();
}

void create_directory(const std::filesystem::path& path, std::error_code& error) {
  const CancellationDisabled disabled;
  BoostError failed;
  bfs::create_directory(bfs::path(path.native()), failed);
  error = to_standard(failed);
}

void create_directories(const std::filesystem::path& path, std::error_code& error) {
  const CancellationDisabled disabled;
  error.clear();
  try {
    // The form that reports by an error code is `noexcept`, and ends the program where memory is missing.
    bfs::create_directories(bfs::path(path.native()));
  } catch (const bfs::filesystem_error& failed) {
    error = to_standard(failed.code());
  }
}

void remove_all(const std::filesystem::path& path, std::error_code& error) {
  const CancellationDisabled disabled;
  BoostError failed;
  bfs::remove_all(bfs::path(path.native()), failed);
  error = to_standard(failed);
}

std::vector<std::string> subdirectories(const std::filesystem::path& path, std::error_code& error) {
  std::vector<std::string> names;
  const CancellationDisabled disabled;
  BoostError failed;
  for (bfs::directory_iterator at(bfs::path(path.native()), failed), end; !failed && at != end; at.increment(failed)) {
    BoostError ignored;
    if (at->symlink_status(ignored).type() == bfs::directory_file) {
      names.push_back(at->path().filename().native());
    }
  }
  error = to_standard(failed);
  return names;
}

}  // namespace sessionlock::sys
