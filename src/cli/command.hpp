#pragma once

/// \file
/// The commands, one file each. A command declares its arguments to the parser; if it is the one that was asked for,
/// the parser leaves in `Invocation::action` what then runs.

#include <functional>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace sessionlock::cli {

struct Invocation {
  /// What stood after `--`, for the commands that run a program; the parser never sees it.
  std::vector<std::string> program{};
  /// Returns the exit status.
  std::function<int()> action{};
};

void declare_run(CLI::App& app, Invocation& invocation);
void declare_append(CLI::App& app, Invocation& invocation);
void declare_status(CLI::App& app, Invocation& invocation);
void declare_list(CLI::App& app, Invocation& invocation);
void declare_clean(CLI::App& app, Invocation& invocation);
void declare_wait(CLI::App& app, Invocation& invocation);
void declare_release(CLI::App& app, Invocation& invocation);
void declare_pidfile(CLI::App& app, Invocation& invocation);
void declare_sentinel(CLI::App& app, Invocation& invocation);
void declare_gate(CLI::App& app, Invocation& invocation);
void declare_watch(CLI::App& app, Invocation& invocation);
void declare_doctor(CLI::App& app, Invocation& invocation);

}  // namespace sessionlock::cli
