#include "cli/directory_report.hpp"

#include <cerrno>
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
  return fmt::format("No locks (*{}) in {}{}\n", printable_text(arguments.sweep.suffix),
                     printable_text(arguments.directory), error_count_words(report));
}

std::string error_count_words(const SweepReport& report) {
  const std::size_t count = report.errors.size();
  return count == 0 ? "" : fmt::format(", {} {} could not be judged", count, count == 1 ? "entry" : "entries");
}

std::string count_words(std::size_t count, std::string_view what) {
  return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s");
}

}  // namespace sessionlock::cli
