#include "cli/arguments.hpp"

#include <cstdlib>
#include <string_view>
#include <utility>

#include <fmt/core.h>

#include "text/mode_text.hpp"
#include "text/printable_text.hpp"

namespace sessionlock::cli {

ManagerOptions SessionArguments::manager_options() const {
  ManagerOptions options;
  options.lock_directory = lock_directory;
  options.mode = mode;
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

void add_session(OptionTable& table, SessionArguments& arguments) {
  const auto read = [&arguments](const std::string& text) {
    arguments.session = text;
    return check_session_name(text);
  };
  table.positional("SESSION", read, "The session file; its lock is found for it");
}

void add_session_options(OptionTable& table, SessionArguments& arguments) {
  table.text("--lock-directory", "DIR", arguments.lock_directory, "Where locks lie, if not beside their sessions")
      .environment = "SESSIONLOCK_DIRECTORY";
  table.flag("--allow-hard-links", arguments.allow_hard_links,
             "Accept a session file with several names; each has a lock of its own");
}

void add_mode(OptionTable& table, std::optional<mode_t>& mode, std::string help) {
  const auto read = [&mode](const std::string& text) {
    mode = parse_mode(text);
    return mode ? mode_fault(*mode)
                : fmt::format("'{}' is no mode; write it in octal, such as 0640", printable_text(text));
  };
  table.option("--mode", "OCTAL", read, std::move(help)).environment = "SESSIONLOCK_MODE";
}

AcquireOptions AcquireArguments::acquire_options(const SessionArguments& session) const {
  AcquireOptions result = options;
  result.allow_hard_links = session.allow_hard_links;
  if (no_wait) {
    result.timeout = std::chrono::milliseconds::zero();
  }
  return result;
}

void add_timeout(OptionTable& table, AcquireArguments& arguments) {
  table.duration("--timeout", arguments.options.timeout, "Give up after this long (60s unless given)");
}

void add_acquire_options(OptionTable& table, AcquireArguments& arguments) {
  add_timeout(table, arguments);
  table.flag("--no-wait", arguments.no_wait, "Try once, and give up if somebody has it").excludes = "--timeout";
  table.text("--label", "TEXT", arguments.options.label, "Words for people who meet the lock");
  table.flag("-v,--verbose", arguments.verbose, "Report whose lock it waits for, and which directories it makes");
}

std::string environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? std::string{} : std::string{value};
}

}  // namespace sessionlock::cli
