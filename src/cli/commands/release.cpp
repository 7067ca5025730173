// `sessionlock release`: an operator removes exactly one acquisition.

#include <sessionlock/lock_manager.hpp>

#include <charconv>
#include <memory>
#include <string>
#include <system_error>

#include <sys/types.h>

#include <fmt/core.h>

#include "cli/arguments.hpp"
#include "cli/command.hpp"
#include "cli/exit_status.hpp"
#include "cli/terminal.hpp"

namespace sessionlock::cli {
namespace {

struct ReleaseArguments {
  SessionArguments session{};
  std::string lock_id{};
  pid_t pid{0};
  bool force{false};
};

int release(const ReleaseArguments& arguments) {
  LockManager manager{arguments.session.manager_options()};
  const std::string acquisition = arguments.lock_id.empty() ? std::to_string(arguments.pid) : arguments.lock_id;
  const Result<Inspection> removed = manager.force_release(arguments.session.session, acquisition, arguments.force);
  if (!removed) {
    const Error& error = removed.error();
    const int status = fail(error);
    if (error.code == Errc::locked && error.holder) {
      print_error(error.holder->explanation());
    }
    return status;
  }
  print(removed->explanation() + "\n");
  return k_done;
}

Reader lock_id_reader(std::string& target) {
  return [&target](const std::string& id) {
    const bool valid = id.size() == 32 && id.find_first_not_of("0123456789abcdefABCDEF") == std::string::npos;
    target = id;
    return valid ? "" : fmt::format("'{}' is no lock id: those have 32 hexadecimal digits", id);
  };
}

Reader pid_reader(pid_t& target) {
  return [&target](const std::string& text) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), target);
    const bool valid = error == std::errc{} && end == text.data() + text.size() && target > 0 && text.front() != '0';
    return valid ? "" : fmt::format("'{}' is no pid", text);
  };
}

}  // namespace

Command declare_release() {
  Command command{"release", "Remove exactly one acquisition of a session, as an operator"};
  const auto arguments = std::make_shared<ReleaseArguments>();
  add_session(command, arguments->session);
  command.one_of_name = "acquisition";
  command.one_of_help = "Which one, as 'sessionlock status' tells it";
  command.one_of.option("--id", "LOCKID", lock_id_reader(arguments->lock_id), "Its lock id");
  command.one_of.option("--pid", "N", pid_reader(arguments->pid),
                        "Its owner's pid, if it is another program's and has no id");
  command.flag("--force", arguments->force, "Also if its owner may be alive: its next guarded write will fail");
  add_session_options(command, arguments->session);
  command.action = [arguments] { return release(*arguments); };
  return command;
}

}  // namespace sessionlock::cli
