#include "cli/arguments.hpp"

#include <cstdlib>
#include <optional>
#include <string_view>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "text/duration_text.hpp"
#include "text/printable_text.hpp"

namespace sessionlock::cli {

CLI::Option* add_duration(CLI::App& command, const std::string& name, std::chrono::milliseconds& target,
                          const std::string& help) {
  const auto read = [name, &target](const std::string& text) {
    const std::optional<std::chrono::milliseconds> duration = parse_duration(text);
    if (!duration) {
      throw CLI::ValidationError(name, fmt::format("'{}' is no duration; write 500ms, 10s, 5m, 1h or inf", text));
    }
    target = *duration;
  };
  return command.add_option_function<std::string>(name, read, help)->type_name("DURATION");
}

ManagerOptions SessionArguments::manager_options() const {
  ManagerOptions options;
  options.lock_directory = lock_directory;
  return options;
}

std::string check_session_name(const std::string& session) {
  const std::string_view suffix = ".lock";
  if (session.size() <= suffix.size() || session.substr(session.size() - suffix.size()) != suffix) {
    return {};
  }
  return fmt::format("'{}' is the name of a lock; name its session, '{}'", printable_text(session),
                     printable_text(session.substr(0, session.size() - suffix.size())));
}

void add_session(CLI::App& command, SessionArguments& arguments) {
  command.add_option("SESSION", arguments.session, "The session file; its lock is found for it")
      ->required()
      ->check(check_session_name)
      ->type_name("");
}

void add_session_options(CLI::App& command, SessionArguments& arguments) {
  command.add_option("--lock-directory", arguments.lock_directory, "Where locks lie, if not beside their sessions")
      ->envname("SESSIONLOCK_DIRECTORY")
      ->type_name("DIR");
  command.add_flag("--allow-hard-links", arguments.allow_hard_links,
                   "Accept a session file with several names; each has a lock of its own");
}

AcquireOptions AcquireArguments::acquire_options(const SessionArguments& session) const {
  AcquireOptions result = options;
  result.allow_hard_links = session.allow_hard_links;
  if (no_wait) {
    result.timeout = std::chrono::milliseconds::zero();
  }
  return result;
}

CLI::Option* add_timeout(CLI::App& command, AcquireArguments& arguments) {
  return add_duration(command, "--timeout", arguments.options.timeout, "Give up after this long (60s unless given)");
}

void add_acquire_options(CLI::App& command, AcquireArguments& arguments) {
  CLI::Option* const timeout = add_timeout(command, arguments);
  command.add_flag("--no-wait", arguments.no_wait, "Try once, and give up if somebody has it")->excludes(timeout);
  command.add_option("--label", arguments.options.label, "Words for people who meet the lock")->type_name("TEXT");
  command.add_flag("-v,--verbose", arguments.verbose, "Tell whom it waits for and what it takes over");
}

std::string environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? std::string{} : std::string{value};
}

}  // namespace sessionlock::cli
