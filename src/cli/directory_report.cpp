#include "cli/directory_report.hpp"

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <vector>

#include <fmt/core.h>
#include <sys/stat.h>

#include "cli/exit_status.hpp"
#include "cli/inspection_text.hpp"
#include "cli/json_writer.hpp"
#include "cli/terminal.hpp"
#include "text/printable_text.hpp"

namespace sessionlock::cli {
namespace {

void write_array(JsonWriter& json, std::string_view name, const std::vector<Inspection>& inspections) {
  json.key(name);
  json.begin_array();
  for (const Inspection& inspection : inspections) {
    write_json(json, inspection);
  }
  json.end_array();
}

template <class Iterator>
std::size_t count_names(Iterator at, std::string_view suffix) {
  std::error_code error;
  std::size_t count = 0;
  for (; !error && at != Iterator{}; at.increment(error)) {
    const std::string name = at->path().filename().native();
    count += name.ends_with(".lock") && !name.ends_with(suffix) ? 1U : 0U;
  }
  return count;
}

/// How many names look like locks of another suffix.
std::size_t count_other_locks(const DirectoryArguments& arguments) {
  namespace fs = std::filesystem;
  constexpr auto k_options = fs::directory_options::skip_permission_denied;
  std::error_code ignored;
  const std::string& suffix = arguments.sweep.suffix;
  return arguments.sweep.recursive
             ? count_names(fs::recursive_directory_iterator(arguments.directory, k_options, ignored), suffix)
             : count_names(fs::directory_iterator(arguments.directory, k_options, ignored), suffix);
}

}  // namespace

void add_directory_options(OptionTable& table, DirectoryArguments& arguments, const Reader& check_suffix) {
  table.positional("DIR", arguments.directory, "The directory");
  table.flag("--recursive", arguments.sweep.recursive, "Go into the directories below as well");
  const auto read_suffix = [&arguments, check_suffix](const std::string& text) {
    arguments.sweep.suffix = text;
    return check_suffix ? check_suffix(text) : std::string{};
  };
  table.option("--suffix", "TEXT", read_suffix, "How the names of locks end (.jsonl.lock unless given)");
  table.flag("--json", arguments.json, "Print one JSON document");
}

Result<SweepReport> sweep_directory(const DirectoryArguments& arguments, std::string_view work) {
  struct stat status {};
  if (::stat(arguments.directory.c_str(), &status) != 0) {
    const std::error_code code{errno, std::system_category()};
    return tl::unexpected(Error{code, "stat", arguments.directory, {}, {}});
  }
  ProgressBar bar{work};
  SweepOptions options = arguments.sweep;
  options.progress = [&bar](std::size_t done, std::size_t total) { bar.show(done, total); };
  return sweep(arguments.directory, options);
}

std::filesystem::path canonical_directory(const DirectoryArguments& arguments) {
  std::error_code ignored;
  return std::filesystem::canonical(arguments.directory, ignored);
}

void print_json(const DirectoryArguments& arguments, const SweepReport& report) {
  JsonWriter json;
  json.begin_object();
  json.member("directory", arguments.directory);
  write_array(json, "locks", report.locks);
  write_array(json, "removed", report.removed);
  json.key("errors");
  json.begin_array();
  for (const Error& error : report.errors) {
    json.begin_object();
    json.member("path", error.path.native());
    json.member("operation", error.operation);
    json.member("error", error.message());
    json.end_object();
  }
  json.end_array();
  json.end_object();
  print(json.finish());
}

int fail_for(const SweepReport& report) {
  int status = k_done;
  for (const Error& error : report.errors) {
    const int failure = fail(error);
    status = status == k_done ? failure : status;
  }
  return status;
}

std::string no_locks_words(const DirectoryArguments& arguments, const SweepReport& report) {
  const std::size_t others = count_other_locks(arguments);
  const std::string hint = others == 0 ? ""
                                       : fmt::format(" ({} in .lock; --suffix chooses which are looked at)",
                                                     others == 1 ? "another name there ends"
                                                                 : fmt::format("{} other names there end", others));
  return fmt::format("No locks (*{}) in {}{}{}\n", printable_text(arguments.sweep.suffix),
                     printable_text(arguments.directory), hint, error_count_words(arguments, report));
}

std::size_t obstacle_count(const SweepReport& report) {
  return static_cast<std::size_t>(std::count_if(report.locks.begin(), report.locks.end(), [](const Inspection& lock) {
    return lock.removable && lock.obstacle;
  }));
}

std::string error_count_words(const DirectoryArguments& arguments, const SweepReport& report) {
  const std::size_t unremoved = obstacle_count(report);
  // A sweep that removes reports the lock that it could not remove among its errors as well.
  const std::size_t unjudged = report.errors.size() - (arguments.sweep.remove ? unremoved : 0);
  std::string words = unremoved == 0 ? "" : fmt::format(", {} could not be removed", unremoved);
  if (unjudged > 0) {
    words += fmt::format(", {} {} could not be judged", unjudged, unjudged == 1 ? "entry" : "entries");
  }
  return words;
}

std::string count_words(std::size_t count, std::string_view what) {
  return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s");
}

}  // namespace sessionlock::cli
