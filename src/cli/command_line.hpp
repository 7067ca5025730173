#pragma once

/// \file
/// A command line before its options are read: which command it names, where the program to run begins, and what the
/// option library would misread or complain of in other words than a user needs. No input, no output.

#include <string>
#include <vector>

#include "cli/parser.hpp"

namespace sessionlock::cli {

struct CommandLine {
  /// The command that the first words name; the root where they name none.
  const Command* command{};
  /// Its name with those of the groups around it, each with a space behind it: `pidfile claim `.
  std::string named{};
  /// All arguments for the option library, the words that name the command included.
  std::vector<std::string> arguments{};
  /// The options that are given, by the names in their rows.
  std::vector<std::string> given{};
  /// The program to run and its arguments, for a command that takes one.
  std::vector<std::string> program{};
  /// It asks for help, so nothing about it is wrong.
  bool asks_for_help{false};
  /// What is wrong, in words; empty if nothing is.
  std::string fault{};
};

/// Lifetime: `root` must live as long as the result.
[[nodiscard]] CommandLine take_apart(const Command& root, std::vector<std::string> arguments);

}  // namespace sessionlock::cli
