#include "cli/parser.hpp"

#include <algorithm>
#include <memory>
#include <optional>
#include <string_view>

#include <fmt/core.h>
#include <CLI/CLI.hpp>

#include "cli/command_line.hpp"
#include "cli/exit_status.hpp"
#include "cli/terminal.hpp"
#include "text/duration_text.hpp"
#include "text/printable_text.hpp"

namespace sessionlock::cli {
namespace {

/// The usage line would otherwise not mention the program that a command takes.
class ProgramFormatter : public CLI::Formatter {
 public:
  std::string make_usage(const CLI::App* app, std::string name) const override {
    std::string usage = CLI::Formatter::make_usage(app, std::move(name));
    usage.insert(usage.find_last_not_of('\n') + 1, " -- COMMAND [ARG...]");
    return usage;
  }
};

bool is_positional(const Option& option) {
  return option.names.front() != '-';
}

/// Where the value of an option comes from, for who has to correct it.
std::string source_of(const Option& option, const CommandLine& line) {
  const bool is_given = std::find(line.given.begin(), line.given.end(), option.names) != line.given.end();
  return is_given || option.environment.empty() ? option.names : option.environment;
}

CLI::Option& add_option(CLI::App& app, const Option& option, const CommandLine& line) {
  if (option.flag != nullptr) {
    return *app.add_flag(option.names, *option.flag, option.help);
  }
  const auto read = [option, &line](const std::vector<std::string>& texts) {
    for (const std::string& text : texts) {
      if (line.asks_for_help) {
        break;
      }
      if (const std::string fault = option.read(text); !fault.empty()) {
        throw CLI::ValidationError(source_of(option, line), fault);
      }
    }
    return true;
  };
  CLI::Option& added = *app.add_option(option.names, read, option.help);
  added.type_name(option.value_name)->required(option.required);
  if (option.repeated && is_positional(option)) {
    added.expected(CLI::detail::expected_max_vector_size);
  } else if (option.repeated) {
    added.trigger_on_parse();
  }
  return added;
}

void add_options(CLI::App& app, const OptionTable& table, const CommandLine& line) {
  for (const Option& option : table.options()) {
    CLI::Option& added = add_option(app, option, line);
    if (&table == line.command) {
      // The option library reads the variables of all commands, and a bad value would end those that it does not
      // concern.
      added.envname(option.environment);
    }
    if (!option.excludes.empty()) {
      added.excludes(app.get_option(option.excludes));
    }
  }
}

/// Describes a command and those below it to the option library. Lifetime: `line` must live until it has parsed.
void add_command(CLI::App& app, const Command& command, const CommandLine& line) {
  add_options(app, command, line);
  if (!command.one_of.options().empty()) {
    CLI::App& group = *app.add_option_group(command.one_of_name, command.one_of_help);
    add_options(group, command.one_of, line);
    group.require_option(1);
  }
  app.footer(command.footer);
  for (const Command& below : command.commands) {
    add_command(*app.add_subcommand(below.name, below.help), below, line);
  }
  if (!command.commands.empty()) {
    app.require_subcommand(1);
  }
  if (command.program_action) {
    app.formatter(std::make_shared<ProgramFormatter>());
  }
}

int print_usage_error(const CommandLine& line, std::string words) {
  std::replace(words.begin(), words.end(), '\n', ' ');
  print_error(fmt::format("{} (see 'sessionlock {}--help')", words, line.named));
  return k_usage;
}

}  // namespace

Option& OptionTable::flag(std::string names, bool& target, std::string help) {
  Option& row = options_.emplace_back();
  row.names = std::move(names);
  row.help = std::move(help);
  row.flag = &target;
  return row;
}

Option& OptionTable::option(std::string names, std::string value_name, Reader read, std::string help) {
  Option& row = options_.emplace_back();
  row.names = std::move(names);
  row.value_name = std::move(value_name);
  row.help = std::move(help);
  row.read = std::move(read);
  return row;
}

Option& OptionTable::text(std::string names, std::string value_name, std::string& target, std::string help) {
  const auto read = [&target](const std::string& text) {
    target = text;
    return std::string{};
  };
  return option(std::move(names), std::move(value_name), read, std::move(help));
}

Option& OptionTable::duration(std::string names, std::chrono::milliseconds& target, std::string help) {
  const auto read = [&target](const std::string& text) {
    const std::optional<std::chrono::milliseconds> duration = parse_duration(text);
    const bool is_number = !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
    if (!duration && is_number) {
      return fmt::format("'{0}' has no unit; write {0}s or {0}ms", text);
    }
    if (!duration) {
      return fmt::format("'{}' is no duration; write 500ms, 10s, 5m, 1h or inf", printable_text(text));
    }
    target = *duration;
    return std::string{};
  };
  return option(std::move(names), "DURATION", read, std::move(help));
}

Option& OptionTable::positional(std::string name, Reader read, std::string help) {
  Option& row = option(std::move(name), {}, std::move(read), std::move(help));
  row.required = true;
  return row;
}

Option& OptionTable::positional(std::string name, std::string& target, std::string help) {
  Option& row = text(std::move(name), {}, target, std::move(help));
  row.required = true;
  return row;
}

Parsed parse(const Command& root, const std::string& version, std::vector<std::string> arguments) {
  CommandLine line = take_apart(root, std::move(arguments));
  if (!line.fault.empty()) {
    return {{}, print_usage_error(line, line.fault)};
  }
  CLI::App app{root.help, root.name};
  app.set_version_flag("--version", version);
  add_command(app, root, line);
  // The option library takes them from the back.
  std::reverse(line.arguments.begin(), line.arguments.end());
  const Command& command = *line.command;
  try {
    app.parse(std::move(line.arguments));
    if (command.program_action && line.program.empty()) {
      throw CLI::RequiredError("-- COMMAND");
    }
    if (!command.program_action && !command.action) {
      throw CLI::RequiredError::Subcommand(1);
    }
  } catch (const CLI::Success& wanted) {
    // Help or the version.
    app.exit(wanted);
    return {{}, finish_output() ? k_done : k_io_error};
  } catch (const CLI::ParseError& error) {
    return {{}, print_usage_error(line, error.what())};
  }
  if (command.program_action) {
    return {[&command, program = std::move(line.program)] { return command.program_action(program); }, k_done};
  }
  return {command.action, k_done};
}

}  // namespace sessionlock::cli
