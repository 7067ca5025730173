#pragma once

/// \file
/// What a command line may say, as tables that the commands fill, and the parser that reads it. The only file that
/// knows the option library is parser.cpp.

#include <chrono>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace sessionlock::cli {

/// Takes the text of an option's value. Returns what is wrong with it; empty if nothing is.
using Reader = std::function<std::string(const std::string& text)>;

/// One row: an option, a flag or a positional argument.
struct Option {
  /// `--label`, `-v,--verbose`, or `SESSION` for a positional argument.
  std::string names{};
  /// What the help calls its value: `TEXT`. Empty for a flag and for a positional argument.
  std::string value_name{};
  std::string help{};
  /// Empty for a flag.
  Reader read{};
  /// Set if the flag is given; null for all others.
  bool* flag{nullptr};
  bool required{false};
  /// May stand more than once; `read` is called for each.
  bool repeated{false};
  /// The environment variable that stands in where the option is not given; empty if there is none.
  std::string environment{};
  /// The option of an earlier row that must not be given as well; empty if there is none.
  std::string excludes{};
};

/// Rows of a table. Lifetime: what an option writes into must live until the command has run. The reference that is
/// returned serves to say more about the option, and is invalidated by the next row.
class OptionTable {
 public:
  Option& flag(std::string names, bool& target, std::string help);
  Option& text(std::string names, std::string value_name, std::string& target, std::string help);
  /// As `parse_duration` reads it.
  Option& duration(std::string names, std::chrono::milliseconds& target, std::string help);
  /// One of a few words.
  template <class T>
  Option& choice(const std::string& names, const std::string& value_name, T& target,
                 const std::vector<std::pair<std::string, T>>& choices, const std::string& help);
  /// Any other option with a value.
  Option& option(std::string names, std::string value_name, Reader read, std::string help);
  /// A required argument without a name of its own.
  Option& positional(std::string name, Reader read, std::string help);
  Option& positional(std::string name, std::string& target, std::string help);

  [[nodiscard]] const std::vector<Option>& options() const { return options_; }

 private:
  std::vector<Option> options_;
};

/// A command: its table, and what it does.
struct Command : OptionTable {
  Command(std::string its_name, std::string its_help) : name(std::move(its_name)), help(std::move(its_help)) {}

  std::string name;
  std::string help;
  std::string footer{};
  /// Options of which exactly one must be given; the help shows them under this name.
  OptionTable one_of{};
  std::string one_of_name{};
  std::string one_of_help{};
  /// If there are any, one of them must be named.
  std::vector<Command> commands{};
  /// Runs the command. Returns the exit status.
  std::function<int()> action{};
  /// Runs a command that is given a program, the words after `--`; instead of `action`.
  std::function<int(const std::vector<std::string>& program)> program_action{};
};

/// What came of a command line.
struct Parsed {
  /// What is left to do; empty if the parser has said all there is to say, with this exit status.
  std::function<int()> action{};
  int status{};
};

/// Parses; prints help, the version, and what is wrong with the command line. Lifetime: `root` must live until the
/// action has run.
[[nodiscard]] Parsed parse(const Command& root, const std::string& version, std::vector<std::string> arguments);

template <class T>
Option& OptionTable::choice(const std::string& names, const std::string& value_name, T& target,
                            const std::vector<std::pair<std::string, T>>& choices, const std::string& help) {
  const auto read = [choices, &target](const std::string& text) {
    std::string all;
    for (const auto& [name, value] : choices) {
      if (name == text) {
        target = value;
        return std::string{};
      }
      all += (all.empty() ? "" : ", ") + name;
    }
    return "'" + text + "' is none of " + all;
  };
  return option(names, value_name, read, help);
}

}  // namespace sessionlock::cli
