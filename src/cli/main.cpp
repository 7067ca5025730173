// The `sessionlock` command: parses arguments, and leaves the rest to the command that was named.

#include <algorithm>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "cli/command.hpp"
#include "cli/exit_status.hpp"
#include "cli/terminal.hpp"
#include "text/printable_text.hpp"

namespace sessionlock::cli {
namespace {

struct Command {
  std::string_view name;
  void (*declare)(CLI::App& app, Invocation& invocation);
  /// The one, of it and its own commands, that a program to run follows after `--`.
  std::string_view takes_program{};
};
constexpr Command k_commands[] = {
    {"run", declare_run, "run"},    {"append", declare_append},
    {"status", declare_status},     {"list", declare_list},
    {"clean", declare_clean},       {"wait", declare_wait},
    {"release", declare_release},   {"pidfile", declare_pidfile, "claim"},
    {"sentinel", declare_sentinel}, {"gate", declare_gate, "gate"},
    {"watch", declare_watch},       {"doctor", declare_doctor},
};

/// The usage line of a command that takes a program would otherwise not mention it.
class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_usage(const CLI::App* app, std::string name) const override {
    std::string usage = CLI::Formatter::make_usage(app, std::move(name));
    const bool takes_program = std::any_of(std::begin(k_commands), std::end(k_commands), [app](const Command& command) {
      return command.takes_program == app->get_name();
    });
    if (takes_program) {
      usage.insert(usage.find_last_not_of('\n') + 1, " -- COMMAND [ARG...]");
    }
    return usage;
  }
};

/// Takes what follows `--` away from the parser, which would look for options in it, if the command runs a program.
void split_program(std::vector<std::string>& arguments, Invocation& invocation) {
  const bool takes_program = std::any_of(std::begin(k_commands), std::end(k_commands), [&](const Command& command) {
    const std::size_t at = command.takes_program == command.name ? 0 : 1;
    return !arguments.empty() && command.name == arguments.front() && at < arguments.size() &&
           command.takes_program == arguments[at];
  });
  const auto separator = std::find(arguments.begin(), arguments.end(), "--");
  if (!takes_program || separator == arguments.end()) {
    return;
  }
  invocation.program.assign(separator + 1, arguments.end());
  arguments.erase(separator, arguments.end());
}

/// Keeps the parser from reading a file name like `[a,b]` as a list of two, as it would where a list is accepted.
void protect_brackets(std::vector<std::string>& arguments) {
  if (arguments.empty() || arguments.front() != "status") {
    return;
  }
  for (std::string& argument : arguments) {
    if (!argument.empty() && argument.front() == '[') {
      argument.insert(0, "./");
    }
  }
}

/// What stands where a command should, if it is none: the parser would only say that a command is missing.
std::string unknown_command(const std::vector<std::string>& arguments) {
  if (arguments.empty() || arguments.front().empty() || arguments.front().front() == '-') {
    return {};
  }
  const bool is_known = std::any_of(std::begin(k_commands), std::end(k_commands),
                                    [&](const Command& command) { return command.name == arguments.front(); });
  return is_known ? std::string{} : arguments.front();
}

/// Parses; runs the help texts. Returns an exit status if that was all.
int parse(CLI::App& app, std::vector<std::string> arguments) {
  // The parser takes them from the back.
  std::reverse(arguments.begin(), arguments.end());
  try {
    app.parse(std::move(arguments));
    return k_done;
  } catch (const CLI::Success& wanted) {
    // Help or the version.
    app.exit(wanted);
    return finish_output() ? k_done : k_io_error;
  } catch (const CLI::ParseError& error) {
    std::string words = error.what();
    std::replace(words.begin(), words.end(), '\n', ' ');
    std::string chosen;
    for (auto commands = app.get_subcommands(); !commands.empty(); commands = commands.front()->get_subcommands()) {
      chosen += commands.front()->get_name() + " ";
    }
    complain(fmt::format("{} (see 'sessionlock {}--help')", words, chosen));
    return k_usage;
  }
}

int run_command_line(std::vector<std::string> arguments) {
  CLI::App app{"One writer at a time for a session file.", "sessionlock"};
  app.formatter(std::make_shared<HelpFormatter>());
  app.set_version_flag("--version", "sessionlock " SESSIONLOCK_VERSION);
  app.require_subcommand(1);
  Invocation invocation;
  for (const Command& command : k_commands) {
    command.declare(app, invocation);
  }
  split_program(arguments, invocation);
  protect_brackets(arguments);
  if (const std::string unknown = unknown_command(arguments); !unknown.empty()) {
    complain(fmt::format("'{}' is no command (see 'sessionlock --help')", printable_text(unknown)));
    return k_usage;
  }
  const int parsed = parse(app, std::move(arguments));
  if (parsed != k_done || !invocation.action) {
    return parsed;
  }
  const int status = invocation.action();
  return finish_output() || status != k_done ? status : k_io_error;
}

}  // namespace
}  // namespace sessionlock::cli

int main(int argc, char** argv) {
  try {
    return sessionlock::cli::run_command_line({argv + std::min(argc, 1), argv + argc});
  } catch (const std::bad_alloc&) {
    sessionlock::cli::complain("out of memory");
  } catch (const std::exception& error) {
    sessionlock::cli::complain(error.what());
  }
  return sessionlock::cli::k_failed;
}
