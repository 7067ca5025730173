#include "cli/command_line.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>
#include <utility>

#include <fmt/core.h>

#include "text/printable_text.hpp"

namespace sessionlock::cli {
namespace {

constexpr std::string_view k_separator = "--";
/// The option library adds these.
constexpr std::array<std::string_view, 3> k_built_in{"-h", "--help", "--version"};

bool is_option(std::string_view argument) {
  return argument.size() > 1 && argument.front() == '-';
}

/// Whether one of the names of a row (`-v,--verbose`) is this one.
bool has_name(const Option& option, std::string_view name) {
  const std::string names = "," + option.names + ",";
  return names.find(fmt::format(",{},", name)) != std::string::npos;
}

const Option* find_option(const Command& command, std::string_view name) {
  for (const OptionTable* table : {static_cast<const OptionTable*>(&command), &command.one_of}) {
    for (const Option& option : table->options()) {
      if (has_name(option, name)) {
        return &option;
      }
    }
  }
  return nullptr;
}

const Command* find_command(const std::vector<Command>& commands, std::string_view name) {
  const auto found =
      std::find_if(commands.begin(), commands.end(), [&](const Command& one) { return one.name == name; });
  return found == commands.end() ? nullptr : &*found;
}

/// How many positional arguments a command takes at most.
std::size_t places(const Command& command) {
  std::size_t count = 0;
  for (const Option& option : command.options()) {
    const bool is_positional = !is_option(option.names);
    if (is_positional && option.repeated) {
      return static_cast<std::size_t>(-1);
    }
    count += is_positional ? 1U : 0U;
  }
  return count;
}

/// Goes over what follows the words that name a command.
class Walk {
 public:
  Walk(const Command& command, std::vector<std::string>& arguments, std::size_t start)
      : command_(command), arguments_(arguments), at_(start), places_(places(command)) {}

  /// Stops at `--`, at the end, or at a fault. Returns the fault.
  std::string run() {
    for (; at_ < arguments_.size() && arguments_[at_] != k_separator; ++at_) {
      std::string fault = is_option(arguments_[at_]) ? option() : positional();
      if (!fault.empty()) {
        return fault;
      }
    }
    return {};
  }

  /// Position of the first `--`, or the number of arguments.
  [[nodiscard]] std::size_t end() const { return at_; }
  [[nodiscard]] std::size_t positionals() const { return positionals_; }
  /// The options that were seen, by the names in their rows.
  [[nodiscard]] std::vector<std::string> take_given() { return std::move(given_); }

 private:
  std::string option() {
    const std::string argument = arguments_[at_];
    const bool is_long = argument[1] == '-';
    const std::string name = is_long ? argument.substr(0, argument.find('=')) : argument.substr(0, 2);
    const Option* const option = find_option(command_, name);
    if (option == nullptr) {
      return std::find(k_built_in.begin(), k_built_in.end(), name) == k_built_in.end() ? unknown(argument) : "";
    }
    given_.push_back(option->names);
    const bool takes_value = option->flag == nullptr;
    if (takes_value && argument.size() == name.size() + 1 && is_long) {
      // The option library would take the next argument for the value that `--label=` leaves empty.
      arguments_[at_] = name;
      arguments_.insert(arguments_.begin() + static_cast<std::ptrdiff_t>(at_) + 1, "");
    }
    at_ += takes_value && arguments_[at_].size() == name.size() ? 1U : 0U;
    return {};
  }

  [[nodiscard]] std::string unknown(const std::string& argument) const {
    const std::string shown = printable_text(argument);
    const bool may_be_file = places_ > 0 && (argument[1] != '-' || argument.find('.') != std::string::npos);
    return fmt::format("'{}' is no option{}", shown,
                       may_be_file ? fmt::format("; write './{}' for a file of that name", shown) : "");
  }

  std::string positional() {
    std::string& argument = arguments_[at_];
    if (!command_.commands.empty()) {
      return fmt::format("'{}' is no command", printable_text(argument));
    }
    if (++positionals_ > places_) {
      return fmt::format("'{}' is not expected{}", printable_text(argument),
                         command_.program_action ? "; the program to run is written behind '--'" : "");
    }
    // Where an argument may be repeated, the option library would read a file name like `[a,b]` as a list of two.
    if (places_ == static_cast<std::size_t>(-1) && !argument.empty() && argument.front() == '[') {
      argument.insert(0, "./");
    }
    return {};
  }

  const Command& command_;
  std::vector<std::string>& arguments_;
  std::size_t at_;
  const std::size_t places_;
  std::size_t positionals_{0};
  std::vector<std::string> given_{};
};

bool asks_for_help(const std::vector<std::string>& arguments) {
  const auto end = std::find(arguments.begin(), arguments.end(), k_separator);
  return std::any_of(arguments.begin(), end, [](const auto& one) { return one == "-h" || one == "--help"; });
}

/// Takes the program away from the option library, which would look for options in it. Its `--` is the first; or, where
/// nothing but an option stands before that, as in `run -- "$session" -- COMMAND`, the second.
void split_program(CommandLine& line, const Walk& walk) {
  std::vector<std::string>& arguments = line.arguments;
  std::size_t end = walk.end();
  if (walk.positionals() == 0 && end + 2 < arguments.size() && arguments[end + 2] == k_separator) {
    end += 2;
  }
  if (end < arguments.size()) {
    const auto separator = arguments.begin() + static_cast<std::ptrdiff_t>(end);
    line.program.assign(separator + 1, arguments.end());
    arguments.erase(separator, arguments.end());
  }
}

}  // namespace

CommandLine take_apart(const Command& root, std::vector<std::string> arguments) {
  CommandLine line{.command = &root, .arguments = std::move(arguments)};
  std::size_t words = 0;
  while (words < line.arguments.size()) {
    const Command* const below = find_command(line.command->commands, line.arguments[words]);
    if (below == nullptr) {
      break;
    }
    line.command = below;
    line.named += below->name + " ";
    ++words;
  }
  Walk walk{*line.command, line.arguments, words};
  line.fault = walk.run();
  line.given = walk.take_given();
  line.asks_for_help = asks_for_help(line.arguments);
  if (line.asks_for_help) {
    line.fault.clear();
  }
  if (line.command->program_action && line.fault.empty()) {
    split_program(line, walk);
  }
  return line;
}

}  // namespace sessionlock::cli
