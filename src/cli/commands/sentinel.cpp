// `sessionlock sentinel`: markers that a stop is under way.

#include <sessionlock/sentinel.hpp>

#include <chrono>
#include <memory>
#include <string>

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

Command declare(const std::shared_ptr<SentinelArguments>& arguments, const std::string& name, const std::string& help,
                int (*action)(const SentinelArguments&)) {
  Command command{name, help};
  command.positional("FILE", arguments->file, "The marker");
  command.action = [=] { return action(*arguments); };
  return command;
}

}  // namespace

Command declare_sentinel() {
  const auto arguments = std::make_shared<SentinelArguments>();
  Command setting = declare(arguments, "set", "Set it, or set it anew", set);
  setting.duration("--ttl", arguments->ttl, "How long it stands; zero clears it").required = true;
  Command asking = declare(arguments, "active", "Tell whether it stands", active);
  asking.footer = "The exit status is 0 if it stands and 1 if not; one that is expired or corrupt is removed.";
  Command group{"sentinel", "Set, ask for or clear a marker that ends by itself"};
  group.commands = {setting, asking, declare(arguments, "clear", "Take it away", clear)};
  return group;
}

}  // namespace sessionlock::cli
