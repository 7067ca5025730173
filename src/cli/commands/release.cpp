// `sessionlock release`: an operator removes exactly one acquisition.

#include <sessionlock/lock_manager.hpp>

#include <memory>
#include <string>

#include <sys/types.h>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

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
  const std::string acquisition = arguments.lock_id.empty() ? fmt::to_string(arguments.pid) : arguments.lock_id;
  const Result<Inspection> removed = manager.force_release(arguments.session.session, acquisition, arguments.force);
  if (!removed) {
    const Error& error = removed.error();
    const int status = fail(error);
    if (error.code == Errc::locked && error.holder) {
      complain(error.holder->explanation());
    }
    return status;
  }
  print(removed->explanation() + "\n");
  return k_done;
}

}  // namespace

void declare_release(CLI::App& app, Invocation& invocation) {
  CLI::App& command = *app.add_subcommand("release", "Remove exactly one acquisition of a session, as an operator");
  const auto arguments = std::make_shared<ReleaseArguments>();
  add_session(command, arguments->session);
  CLI::App& which = *command.add_option_group("acquisition", "Which one, as 'sessionlock status' tells it");
  which.add_option("--id", arguments->lock_id, "Its lock id")->type_name("LOCKID")->check([](const std::string& id) {
    const bool valid = id.size() == 32 && id.find_first_not_of("0123456789abcdefABCDEF") == std::string::npos;
    return valid ? std::string{} : fmt::format("'{}' is no lock id: those have 32 hexadecimal digits", id);
  });
  which.add_option("--pid", arguments->pid, "Its owner's pid, if it is another program's and has no id")
      ->type_name("N")
      ->check([](const std::string& pid) {
        const bool valid =
            !pid.empty() && pid.front() != '0' && pid.find_first_not_of("0123456789") == std::string::npos;
        return valid ? std::string{} : fmt::format("'{}' is no pid", pid);
      });
  which.require_option(1);
  command.add_flag("--force", arguments->force, "Also if its owner may be alive: its next guarded write will fail");
  add_session_options(command, arguments->session);
  command.callback([arguments, &invocation] { invocation.action = [arguments] { return release(*arguments); }; });
}

}  // namespace sessionlock::cli
