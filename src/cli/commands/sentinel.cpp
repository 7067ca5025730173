// `sessionlock sentinel`: markers that a stop is under way.

#include <sessionlock/sentinel.hpp>

#include <chrono>
#include <memory>
#include <string>

#include <CLI/CLI.hpp>

#include "cli/arguments.hpp"
#include "cli/command.hpp"
#include "cli/exit_status.hpp"

namespace sessionlock::cli {
namespace {

struct SentinelArguments {
  std::string file{};
  std::chrono::milliseconds ttl{0};
};

int set(const SentinelArguments& arguments) {
  const Result<void> done = Sentinel{arguments.file}.set(arguments.ttl);
  return done ? k_done : fail(done.error());
}

/// Scripts ask with `if`: an error must not look like a sentinel that stands, nor like one that is absent.
int active(const SentinelArguments& arguments) {
  const Result<bool> stands = Sentinel{arguments.file}.active();
  if (!stands) {
    return fail(stands.error());
  }
  return *stands ? k_done : k_failed;
}

int clear(const SentinelArguments& arguments) {
  const Result<void> done = Sentinel{arguments.file}.clear();
  return done ? k_done : fail(done.error());
}

CLI::App& declare(CLI::App& group, Invocation& invocation, const std::shared_ptr<SentinelArguments>& arguments,
                  const std::string& name, const std::string& help, int (*action)(const SentinelArguments&)) {
  CLI::App& command = *group.add_subcommand(name, help);
  command.add_option("FILE", arguments->file, "The marker")->required()->type_name("");
  command.callback([=, &invocation] { invocation.action = [=] { return action(*arguments); }; });
  return command;
}

}  // namespace

void declare_sentinel(CLI::App& app, Invocation& invocation) {
  CLI::App& group = *app.add_subcommand("sentinel", "Set, ask for or clear a marker that ends by itself");
  group.require_subcommand(1);
  const auto arguments = std::make_shared<SentinelArguments>();
  CLI::App& setting = declare(group, invocation, arguments, "set", "Set it, or set it anew", set);
  add_duration(setting, "--ttl", arguments->ttl, "How long it stands; zero clears it")->required();
  declare(group, invocation, arguments, "active", "Tell whether it stands", active)
      .footer("The exit status is 0 if it stands and 1 if not; one that is expired or corrupt is removed.");
  declare(group, invocation, arguments, "clear", "Take it away", clear);
}

}  // namespace sessionlock::cli
