#include "cli/exit_status.hpp"

#include <cerrno>
#include <cstdio>
#include <string>

namespace sessionlock::cli {
namespace {

int exit_status_of(Errc code) {
  switch (code) {
    case Errc::locked:
    case Errc::timed_out:
    case Errc::torn_transcript:
      return k_locked;
    case Errc::invalid_argument:
      return k_usage;
    case Errc::invalid_record:
      return k_bad_data;
    case Errc::unsupported_file_system:
      return k_cannot_create;
    case Errc::not_a_lock_file:
      return k_io_error;
    case Errc::cancelled:
    case Errc::lost:
    case Errc::aliased_session:
    case Errc::replaced_session:
      return k_failed;
  }
  return k_failed;
}

int exit_status_of_errno(int number) {
  switch (number) {
    case EACCES:
    case EPERM:
      return k_no_permission;
    case ENOENT:
    case ENOTDIR:
      return k_no_such_file;
    case EROFS:
    case EEXIST:
    case EISDIR:
    case ELOOP:
    case ENAMETOOLONG:
      return k_cannot_create;
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return k_failed;
    default:
      return k_io_error;
  }
}

}  // namespace

int exit_status(const std::error_code& code) {
  if (code.category() == error_category()) {
    return exit_status_of(static_cast<Errc>(code.value()));
  }
  if (code.category() == std::system_category() || code.category() == std::generic_category()) {
    return exit_status_of_errno(code.value());
  }
  return k_failed;
}

void print_error(std::string_view words) {
  std::string line{"sessionlock: "};
  line += words;
  line += '\n';
  // A message that cannot be written has no other place to go.
  static_cast<void>(std::fwrite(line.data(), 1, line.size(), stderr));
}

int fail(const Error& error) {
  print_error(error.message());
  return exit_status(error.code);
}

}  // namespace sessionlock::cli
