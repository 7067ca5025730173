// `sessionlock doctor`: what the file system under a directory can do for locks.

#include <sessionlock/file_system_check.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <fmt/core.h>

#include "cli/command.hpp"
#include "cli/exit_status.hpp"
#include "cli/json_writer.hpp"
#include "cli/terminal.hpp"
#include "text/printable_text.hpp"

namespace sessionlock::cli {
namespace {

struct DoctorArguments {
  std::string directory{};
  bool json{false};
};

std::string step_words(const FileSystemCheck& check) {
  if (!check.time_step) {
    return "coarser than could be seen";
  }
  const auto nanoseconds = static_cast<double>(check.time_step->count());
  if (nanoseconds < 1e6) {
    return fmt::format("steps of {:.3g} µs", nanoseconds / 1e3);
  }
  return nanoseconds < 1e9 ? fmt::format("steps of {:.3g} ms", nanoseconds / 1e6)
                           : fmt::format("steps of {:.3g} s", nanoseconds / 1e9);
}

std::string_view verdict_words(LockSafety safety) {
  switch (safety) {
    case LockSafety::safe:
      return "Locks are safe here.";
    case LockSafety::limited:
      return "Locks exclude each other here, with limits.";
    case LockSafety::unsafe:
      return "No lock can be had here.";
  }
  return {};
}

Colour colour_of(LockSafety safety) {
  switch (safety) {
    case LockSafety::safe:
      return Colour::green;
    case LockSafety::limited:
      return Colour::yellow;
    case LockSafety::unsafe:
      return Colour::red;
  }
  return Colour::plain;
}

void print_check(const FileSystemCheck& check) {
  const Palette palette = Palette::for_output();
  print(fmt::format("{}: {}, {}\n", palette.paint(Colour::bold, printable_text(check.directory.native())), check.type,
                    check.local ? "local to one kernel" : "not known to be local to one kernel"));
  const auto line = [&](std::string_view what, bool works, const std::string& note = {}) {
    print(fmt::format("  {:<28} {}{}\n", what, palette.paint(works ? Colour::green : Colour::red, works ? "yes" : "no"),
                      note.empty() ? "" : " (" + note + ")"));
  };
  line("nameless temporary files", check.nameless_files);
  line("exclusive link", check.exclusive_link);
  line("exclusive rename", check.exclusive_rename);
  line("flock", check.flock);
  line("OFD locks", check.record_locks,
       check.record_locks && !check.independent_locks ? "but they collide with flock" : "");
  line("stable inode numbers", check.stable_inodes);
  line("inotify", check.inotify, check.inotify_failure ? check.inotify_failure.message() : "");
  print(fmt::format("  {:<28} {}\n", "modification times", step_words(check)));
  print(fmt::format("{}\n", palette.paint(colour_of(check.safety), verdict_words(check.safety))));
  if (check.refusal) {
    print(fmt::format("  {}\n", check.refusal->message()));
  }
  for (const std::string& advice : check.advice) {
    print(fmt::format("  {}\n", advice));
  }
}

void print_json(const FileSystemCheck& check) {
  JsonWriter json;
  json.begin_object();
  json.member("directory", std::optional{check.directory.native()});
  json.member("type", std::optional{check.type});
  json.member("local", check.local);
  json.member("namelessFiles", check.nameless_files);
  json.member("exclusiveLink", check.exclusive_link);
  json.member("exclusiveRename", check.exclusive_rename);
  json.member("flock", check.flock);
  json.member("ofdLocks", check.record_locks);
  json.member("independentLocks", check.independent_locks);
  json.member("stableInodes", check.stable_inodes);
  json.member("inotify", check.inotify);
  json.member("timeStepNs", check.time_step ? std::optional<std::int64_t>{check.time_step->count()} : std::nullopt);
  json.member("verdict", std::optional{std::string{to_string(check.safety)}});
  json.member("refusal", check.refusal ? std::optional{check.refusal->message()} : std::nullopt);
  json.key("advice");
  json.begin_array();
  for (const std::string& advice : check.advice) {
    json.text(advice);
  }
  json.end_array();
  json.end_object();
  print(json.finish());
}

int doctor(const DoctorArguments& arguments) {
  const Result<FileSystemCheck> check = check_file_system(arguments.directory);
  if (!check) {
    return fail(check.error());
  }
  if (arguments.json) {
    print_json(*check);
  } else {
    print_check(*check);
  }
  return check->refusal ? exit_status(check->refusal->code) : k_done;
}

}  // namespace

Command declare_doctor() {
  Command command{"doctor", "Try out what the file system under a directory can do for locks"};
  const auto arguments = std::make_shared<DoctorArguments>();
  command.positional("DIR", arguments->directory, "The directory; a scratch directory is made in it and removed");
  command.flag("--json", arguments->json, "Print one JSON document");
  command.footer = "The exit status is 0 if locks can be had there, and 73 if not.";
  command.action = [arguments] { return doctor(*arguments); };
  return command;
}

}  // namespace sessionlock::cli
