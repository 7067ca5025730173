// `sessionlock list`: every lock in a directory, as a table.

#include <sessionlock/lock_manager.hpp>
#include <sessionlock/sweep.hpp>

#include <algorithm>
#include <memory>
#include <string>

#include <fmt/core.h>

#include "cli/command.hpp"
#include "cli/directory_report.hpp"
#include "cli/exit_status.hpp"
#include "cli/inspection_text.hpp"
#include "cli/terminal.hpp"
#include "text/printable_text.hpp"

namespace sessionlock::cli {
namespace {

std::string summary(const SweepReport& report, const DirectoryArguments& arguments) {
  const auto in_state = [&](LockState state) {
    return std::count_if(report.locks.begin(), report.locks.end(),
                         [state](const Inspection& lock) { return lock.state == state; });
  };
  std::string text = fmt::format("{}: {} held, {} stale, {} pending", count_words(report.locks.size(), "lock"),
                                 in_state(LockState::held), in_state(LockState::stale), in_state(LockState::pending)) +
                     error_count_words(arguments, report);
  if (static_cast<std::size_t>(in_state(LockState::stale)) > obstacle_count(report)) {
    text += fmt::format(" ('sessionlock clean{} {}' removes the stale)",
                        arguments.sweep.recursive ? " --recursive" : "", printable_text(arguments.directory));
  }
  return text + "\n";
}

int list(const DirectoryArguments& arguments) {
  const Result<SweepReport> report = sweep_directory(arguments, "Looking at locks");
  if (!report) {
    return fail(report.error());
  }
  if (arguments.json) {
    print_json(arguments, *report);
  } else if (report->locks.empty()) {
    print(no_locks_words(arguments, *report));
  } else {
    print(table(report->locks, canonical_directory(arguments), Palette::for_output()) + summary(*report, arguments));
  }
  return fail_for(*report);
}

}  // namespace

Command declare_list() {
  Command command{"list", "Tell about every lock in a directory"};
  const auto arguments = std::make_shared<DirectoryArguments>();
  arguments->sweep.remove = false;
  arguments->sweep.stale = AcquireOptions::from_environment().stale;
  add_directory_options(command, *arguments);
  command.action = [arguments] { return list(*arguments); };
  return command;
}

}  // namespace sessionlock::cli
