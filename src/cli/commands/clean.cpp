// `sessionlock clean`: removes stale locks.

#include <sessionlock/lock_manager.hpp>
#include <sessionlock/sweep.hpp>

#include <memory>
#include <string>

#include <fmt/core.h>

#include "cli/arguments.hpp"
#include "cli/command.hpp"
#include "cli/directory_report.hpp"
#include "cli/exit_status.hpp"
#include "cli/inspection_text.hpp"
#include "cli/terminal.hpp"
#include "text/printable_text.hpp"

namespace sessionlock::cli {
namespace {

struct CleanArguments {
  DirectoryArguments common{};
  bool dry_run{false};
};

/// What happened to a lock: in one word, and the sentence that says why.
std::string line_for(const Inspection& lock, bool dry_run, const std::filesystem::path& directory,
                     const Palette& palette) {
  const bool would = dry_run && lock.removable && !lock.obstacle;
  const std::string_view word = lock.removed     ? "removed"
                                : would          ? "would remove"
                                : lock.removable ? "not removed"
                                                 : "kept";
  const std::string reasons = reason_words(lock);
  return fmt::format("{} {}{}\n    {}\n", palette.paint(colour_of(lock.state), word),
                     palette.paint(Colour::bold, relative_to(lock, directory)),
                     reasons.empty() ? "" : fmt::format(" ({})", reasons), lock.explanation());
}

void print_report(const SweepReport& report, const CleanArguments& arguments) {
  if (report.locks.empty()) {
    print(no_locks_words(arguments.common, report));
    return;
  }
  const Palette palette = Palette::for_output();
  const std::filesystem::path directory = canonical_directory(arguments.common);
  std::size_t removed = report.removed.size();
  for (const Inspection& lock : report.locks) {
    removed += arguments.dry_run && lock.removable && !lock.obstacle ? 1U : 0U;
    print(line_for(lock, arguments.dry_run, directory, palette));
  }
  const std::size_t kept = report.locks.size() - removed - obstacle_count(report);
  print(fmt::format("{} {}, {} kept{}\n", count_words(removed, "lock"),
                    arguments.dry_run ? "would be removed" : "removed", kept,
                    error_count_words(arguments.common, report)));
}

int clean(CleanArguments arguments) {
  arguments.common.sweep.remove = !arguments.dry_run;
  const Result<SweepReport> report =
      sweep_directory(arguments.common, arguments.dry_run ? "Looking at locks" : "Cleaning");
  if (!report) {
    return fail(report.error());
  }
  if (arguments.common.json) {
    print_json(arguments.common, *report);
  } else {
    print_report(*report, arguments);
  }
  return fail_for(*report);
}

/// Programs of all kinds call files *.lock (Cargo.lock, yarn.lock): those are not to be judged as ours.
std::string own_suffix(const std::string& suffix) {
  const bool is_own = suffix.size() > 5 && suffix.substr(suffix.size() - 5) == ".lock";
  return is_own ? "" : "must end in .lock and say more, such as .log.lock";
}

}  // namespace

Command declare_clean() {
  Command command{"clean", "Remove the locks in a directory that are nobody's"};
  const auto arguments = std::make_shared<CleanArguments>();
  arguments->common.sweep.stale = AcquireOptions::from_environment().stale;
  add_directory_options(command, arguments->common, own_suffix);
  command.flag("--dry-run", arguments->dry_run, "Only tell what would be removed");
  command.duration("--stale-after", arguments->common.sweep.stale.stale_after,
                   "Age from which a lock counts as old (30m unless given)");
  command.footer = "A lock whose owner may be alive is kept, with the reason.";
  command.action = [arguments] { return clean(*arguments); };
  return command;
}

}  // namespace sessionlock::cli
