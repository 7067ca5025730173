// `sessionlock watch`: what happens to the locks in a directory, as it happens.

#include <sessionlock/lock_manager.hpp>
#include <sessionlock/lock_watch.hpp>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>

#include <fmt/core.h>

#include "cli/command.hpp"
#include "cli/exit_status.hpp"
#include "cli/inspection_text.hpp"
#include "cli/json_writer.hpp"
#include "cli/signals.hpp"
#include "cli/terminal.hpp"
#include "text/duration_text.hpp"
#include "text/printable_text.hpp"
#include "text/timestamp.hpp"
#include "verdict/explanation.hpp"

namespace sessionlock::cli {
namespace {

struct WatchArguments {
  std::string directory{};
  LockWatchOptions options{};
  bool json{false};
};

Colour colour_of(LockEventKind kind) {
  switch (kind) {
    case LockEventKind::acquired:
    case LockEventKind::held:
      return Colour::yellow;
    case LockEventKind::released:
      return Colour::green;
    case LockEventKind::reclaimed:
      return Colour::cyan;
    case LockEventKind::owner_died:
      return Colour::red;
  }
  return Colour::plain;
}

/// `2026-11-20T08:00:00.000Z  acquired    run.jsonl  pid 41237 label "nightly"`
std::string line_for(const LockEvent& event, const std::filesystem::path& directory, const Palette& palette) {
  const LockRecord& record = event.lock.record;
  const bool was_read = event.lock.basis != Basis::no_file || record.pid;
  std::string line = fmt::format("{}  {}  {}  {}", format_rfc3339(event.time),
                                 palette.paint(colour_of(event.kind), fmt::format("{:<10}", to_string(event.kind))),
                                 palette.paint(Colour::bold, relative_to(event.lock, directory)),
                                 was_read ? owner_words(event.lock) : "gone before it could be read");
  if (record.label) {
    line += " label " + quoted_text(*record.label);
  }
  if (event.lock.age && event.kind != LockEventKind::acquired) {
    line += " age " + format_age(*event.lock.age);
  }
  if (const auto inherited = inherited_words(event.lock);
      event.kind == LockEventKind::owner_died && !inherited.empty()) {
    line += fmt::format("; {}", inherited);
  }
  return line + "\n";
}

std::string json_for(const LockEvent& event) {
  JsonWriter json{JsonWriter::Layout::one_line};
  json.begin_object();
  json.member("time", std::optional{format_rfc3339(event.time)});
  json.member("event", std::optional{std::string{to_string(event.kind)}});
  const LockRecord& record = event.lock.record;
  const bool is_there = event.kind != LockEventKind::released && event.kind != LockEventKind::reclaimed;
  json.member("session",
              event.lock.session_path.empty() ? std::nullopt : std::optional{event.lock.session_path.native()});
  json.member("lockPath", std::optional{event.lock.lock_path.native()});
  json.member("pid", record.pid ? std::optional<std::int64_t>{*record.pid} : std::nullopt);
  json.member("createdAt", record.created_at);
  json.member("ageMs", event.lock.age ? std::optional<std::int64_t>{event.lock.age->count()} : std::nullopt);
  json.member("lockId", record.lock_id);
  json.member("label", record.label);
  json.member("host", record.host);
  json.member("explanation",
              is_there && event.lock.basis != Basis::no_file ? std::optional{event.lock.explanation()} : std::nullopt);
  json.end_object();
  return json.finish();
}

int watch(WatchArguments arguments) {
  SignalCatcher signals{k_ending_signals};
  const Interruption interruption{signals};
  std::error_code ignored;
  const std::filesystem::path directory = std::filesystem::canonical(arguments.directory, ignored);
  const Palette palette = Palette::for_output();
  std::stop_source stop;
  const std::stop_callback on_signal(interruption.token(), [&stop] { stop.request_stop(); });
  arguments.options.stop = stop.get_token();
  arguments.options.degraded = [](const Error& error) { print_error("has to poll: " + error.message()); };
  const Result<void> watched = watch_locks(arguments.directory, arguments.options, [&](const LockEvent& event) {
    print(arguments.json ? json_for(event) : line_for(event, directory, palette));
    if (!flush_output()) {
      stop.request_stop();  // the reader is gone
    }
  });
  return watched ? k_done : fail(watched.error());
}

}  // namespace

Command declare_watch() {
  Command command{"watch", "Tell what happens to the locks in a directory, as it happens"};
  const auto arguments = std::make_shared<WatchArguments>();
  arguments->options.stale = AcquireOptions::from_environment().stale;
  command.positional("DIR", arguments->directory, "The directory");
  command.text("--suffix", "TEXT", arguments->options.suffix, "How the names of locks end (.jsonl.lock unless given)");
  command.flag("--json", arguments->json, "Print one JSON object a line");
  command.footer =
      "Events: held (there from the start), acquired, released, owner-died, reclaimed. Ends when interrupted.";
  command.action = [arguments] { return watch(*arguments); };
  return command;
}

}  // namespace sessionlock::cli
