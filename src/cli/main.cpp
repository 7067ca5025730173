// The `sessionlock` command: hands its arguments to the parser, and runs what that returns.

#include <algorithm>
#include <exception>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

#include "cli/command.hpp"
#include "cli/exit_status.hpp"
#include "cli/parser.hpp"
#include "cli/signals.hpp"
#include "cli/terminal.hpp"

namespace sessionlock::cli {
namespace {

/// In the order in which the help lists them.
Command declare_commands() {
  Command root{"sessionlock", "One writer at a time for a session file."};
  root.commands = {declare_run(),      declare_append(), declare_status(),  declare_list(),
                   declare_clean(),    declare_wait(),   declare_release(), declare_pidfile(),
                   declare_sentinel(), declare_gate(),   declare_watch(),   declare_doctor()};
  return root;
}

int run_command_line(std::vector<std::string> arguments) {
  if (::getpid() == 1) {
    leave_reaping_to_the_kernel();  // until there is a program: program.hpp
  }
  const Command root = declare_commands();
  const Parsed parsed = parse(root, "sessionlock " SESSIONLOCK_VERSION, std::move(arguments));
  if (!parsed.action) {
    return parsed.status;
  }
  const int status = parsed.action();
  return finish_output() || status != k_done ? status : k_io_error;
}

}  // namespace
}  // namespace sessionlock::cli

int main(int argc, char** argv) {
  try {
    return sessionlock::cli::run_command_line({argv + std::min(argc, 1), argv + argc});
  } catch (const std::bad_alloc&) {
    sessionlock::cli::print_error("out of memory");
  } catch (const std::exception& error) {
    sessionlock::cli::print_error(error.what());
  }
  return sessionlock::cli::k_failed;
}
