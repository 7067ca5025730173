// The command's parts that decide something by themselves.

#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <future>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/command_line.hpp"
#include "cli/exit_status.hpp"
#include "cli/json_writer.hpp"
#include "cli/line_source.hpp"
#include "cli/signals.hpp"
#include "cli/terminal.hpp"

namespace sessionlock::cli {
namespace {

std::error_code system_error_of(int number) {
  return {number, std::system_category()};
}

/// A pipe whose reading end a `LineSource` reads, and another that interrupts it.
struct Input {
  Input() {
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    REQUIRE(::pipe2(interrupt, O_CLOEXEC) == 0);
  }
  ~Input() {
    for (const int fd : {ends[0], ends[1], interrupt[0], interrupt[1]}) {
      if (fd >= 0) {
        ::close(fd);
      }
    }
  }
  Input(const Input&) = delete;
  Input& operator=(const Input&) = delete;

  void write(std::string_view text) const {
    REQUIRE(::write(ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  }
  void finish() {
    ::close(ends[1]);
    ends[1] = -1;
  }

  int ends[2]{-1, -1};
  int interrupt[2]{-1, -1};
};

using Lines = std::vector<std::string_view>;

TEST_CASE("every error of the library has an exit status of the documented ones") {
  const std::set<int> documented{k_failed,        k_usage,    k_bad_data, k_no_such_file,
                                 k_cannot_create, k_io_error, k_locked,   k_no_permission};
  for (int value = 0; value <= 20; ++value) {
    CHECK(documented.count(exit_status({value, error_category()})) == 1);
  }
  for (int number = 1; number < 140; ++number) {
    CHECK(documented.count(exit_status(system_error_of(number))) == 1);
  }
  CHECK(exit_status(std::make_error_code(std::future_errc::no_state)) == k_failed);
}

TEST_CASE("contention, bad records and system errors have their own exit statuses") {
  for (const Errc code : {Errc::locked, Errc::timed_out, Errc::torn_transcript}) {
    CHECK(exit_status(code) == k_locked);
  }
  CHECK(exit_status(Errc::invalid_argument) == k_usage);
  CHECK(exit_status(Errc::invalid_record) == k_bad_data);
  CHECK(exit_status(Errc::not_a_lock_file) == k_io_error);
  CHECK(exit_status(Errc::unsupported_file_system) == k_cannot_create);
  CHECK(exit_status(Errc::lost) == k_failed);
  CHECK(exit_status(system_error_of(ENOENT)) == k_no_such_file);
  CHECK(exit_status(system_error_of(EROFS)) == k_cannot_create);
  CHECK(exit_status(system_error_of(ENOSPC)) == k_io_error);
  CHECK(exit_status(system_error_of(EIO)) == k_io_error);
  CHECK(exit_status(system_error_of(EACCES)) == k_no_permission);
  CHECK(exit_status(std::make_error_code(std::errc::permission_denied)) == k_no_permission);
}

/// `run [-v] [--label TEXT] SESSION -- COMMAND`, `show SESSION...`, and a group.
struct Commands {
  Commands() {
    Command run{"run", ""};
    run.flag("-v,--verbose", verbose, "");
    run.text("--label", "TEXT", label, "");
    run.positional("SESSION", session, "");
    run.program_action = [](const std::vector<std::string>&) { return 0; };
    Command show{"show", ""};
    show.positional("SESSION", session, "").repeated = true;
    Command group{"group", ""};
    group.commands = {Command{"inner", ""}};
    root.commands = {run, show, group};
  }

  [[nodiscard]] CommandLine line(std::vector<std::string> arguments) const {
    return take_apart(root, std::move(arguments));
  }

  Command root{"command", ""};
  bool verbose{false};
  std::string label{};
  std::string session{};
};

using Words = std::vector<std::string>;

TEST_CASE("the program begins behind the first -- after the session") {
  const Commands commands;
  CommandLine line = commands.line({"run", "-v", "s", "--", "sh", "-c", "--", "x"});
  CHECK(line.fault.empty());
  CHECK(line.named == "run ");
  CHECK(line.arguments == Words{"run", "-v", "s"});
  CHECK(line.program == Words{"sh", "-c", "--", "x"});
  line = commands.line({"run", "s", "--", "true", "--", "x"});
  CHECK(line.program == Words{"true", "--", "x"});
}

TEST_CASE("a first -- before the session ends the options, and the program begins behind the second") {
  const Commands commands;
  CommandLine line = commands.line({"run", "--label", "s", "--", "-dash", "--", "true", "--"});
  CHECK(line.fault.empty());
  CHECK(line.arguments == Words{"run", "--label", "s", "--", "-dash"});
  CHECK(line.program == Words{"true", "--"});
  line = commands.line({"run", "--", "true", "x", "--", "y"});
  CHECK(line.arguments == Words{"run"});
  CHECK(line.program == Words{"true", "x", "--", "y"});
}

TEST_CASE("a value is no option, and an empty value is a value") {
  const Commands commands;
  CHECK(commands.line({"run", "--label", "-x", "s", "--", "true"}).fault.empty());
  CHECK(commands.line({"run", "--label=-x", "s", "--", "true"}).fault.empty());
  CHECK(commands.line({"run", "--label", "--", "s", "--", "true"}).arguments == Words{"run", "--label", "--", "s"});
  CHECK(commands.line({"run", "--label=", "s", "--", "true"}).arguments == Words{"run", "--label", "", "s"});
}

TEST_CASE("what is no option, no command or too much is named, with what may have been meant") {
  const Commands commands;
  CHECK(commands.line({"run", "-dash.jsonl", "--", "true"}).fault ==
        "'-dash.jsonl' is no option; write './-dash.jsonl' for a file of that name");
  CHECK(commands.line({"run", "--dash.jsonl", "--", "true"}).fault.find("./--dash.jsonl") != std::string::npos);
  CHECK(commands.line({"run", "--verbos", "s", "--", "true"}).fault == "'--verbos' is no option");
  CHECK(commands.line({"run", "s", "true"}).fault ==
        "'true' is not expected; the program to run is written behind '--'");
  CHECK(commands.line({"other"}).fault == "'other' is no command");
  const CommandLine unknown = commands.line({"group", "other"});
  CHECK(unknown.fault == "'other' is no command");
  CHECK(unknown.named == "group ");
  CHECK(commands.line({"show", "a", "b", "[c,d]"}).arguments == Words{"show", "a", "b", "./[c,d]"});
}

TEST_CASE("a wish for help is no fault, whatever stands beside it") {
  const Commands commands;
  for (const Words& words : {Words{"run", "--other", "--help"}, Words{"run", "a", "b", "-h"}, Words{"other", "-h"}}) {
    CHECK(commands.line(words).fault.empty());
  }
  CHECK_FALSE(commands.line({"run", "--other", "--", "--help"}).fault.empty());
}

TEST_CASE("lines that can be read at once are one batch") {
  Input input;
  LineSource source{input.ends[0], input.interrupt[0], 100};
  input.write("one\ntwo\n\nfo");
  Batch batch = source.next();
  CHECK(batch.lines == Lines{"one", "two", ""});
  CHECK(batch.first_line == 1);
  CHECK(batch.end == Batch::End::open);
  input.write("ur\nfive");
  batch = source.next();
  CHECK(batch.lines == Lines{"four"});
  CHECK(batch.first_line == 4);
  input.finish();
  batch = source.next();
  CHECK(batch.lines == Lines{"five"});
  CHECK(batch.first_line == 5);
  CHECK(source.next().end == Batch::End::end);
  CHECK(source.next().lines.empty());
}

TEST_CASE("a batch has at most 1000 lines") {
  Input input;
  LineSource source{input.ends[0], input.interrupt[0], 100};
  std::string text;
  for (std::size_t i = 0; i < 2 * k_batch_lines_max + 1; ++i) {
    text += std::to_string(i) + "\n";
  }
  input.write(text);
  input.finish();
  std::uint64_t expected = 0;
  for (const std::size_t size : {k_batch_lines_max, k_batch_lines_max, std::size_t{1}}) {
    const Batch batch = source.next();
    REQUIRE(batch.lines.size() == size);
    CHECK(batch.first_line == expected + 1);
    for (const std::string_view line : batch.lines) {
      CHECK(line == std::to_string(expected++));
    }
  }
  CHECK(source.next().end == Batch::End::end);
}

TEST_CASE("a batch has at most 1 MiB, and a longer line is a batch alone") {
  Input input;
  LineSource source{input.ends[0], input.interrupt[0], 4 * k_batch_bytes_max};
  const std::string half(k_batch_bytes_max / 2 - 1, 'h');
  const std::string longer(2 * k_batch_bytes_max, 'l');
  std::thread writer{[&] {
    input.write(half + "\n" + half + "\n" + "x\n" + longer + "\ny\n");
    input.finish();
  }};
  std::vector<std::string> lines;
  for (Batch batch = source.next(); batch.end != Batch::End::end; batch = source.next()) {
    std::size_t bytes = 0;
    for (const std::string_view line : batch.lines) {
      bytes += line.size() + 1;
      lines.emplace_back(line);
    }
    CHECK((bytes <= k_batch_bytes_max || batch.lines.size() == 1));
  }
  writer.join();
  CHECK(lines == std::vector<std::string>{half, half, "x", longer, "y"});
}

TEST_CASE("a line that is too long is named after the lines before it were given out") {
  for (const bool ended : {false, true}) {
    Input input;
    LineSource source{input.ends[0], input.interrupt[0], 10};
    input.write("short\n" + std::string(11, 'x') + (ended ? "\n" : ""));
    Batch batch = source.next();
    CHECK(batch.lines.front() == "short");
    if (ended) {
      // Complete by the time it was looked at: whoever checks lines sees how long it is.
      CHECK(batch.lines.back().size() == 11);
    } else {
      batch = source.next();
      CHECK(batch.end == Batch::End::too_long);
      CHECK(batch.first_line == 2);
      CHECK(batch.lines.empty());
    }
  }
}

TEST_CASE("an interruption ends the wait for a line") {
  Input input;
  LineSource source{input.ends[0], input.interrupt[0], 100};
  input.write("begun");
  std::thread interrupter{[&] { CHECK(::write(input.interrupt[1], "", 1) == 1); }};
  const Batch batch = source.next();
  interrupter.join();
  CHECK(batch.end == Batch::End::interrupted);
  CHECK(batch.lines.empty());
}

TEST_CASE("a failure to read comes after the lines before it and drops an incomplete one") {
  int ends[2]{-1, -1};
  Input input;
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  REQUIRE(::write(ends[1], "one\ntw", 6) == 6);
  // Bytes that the peer never read make its end a reset (unix(7)), which the reader sees after what was sent.
  REQUIRE(::write(ends[0], "unread", 6) == 6);
  ::close(ends[1]);
  LineSource source{ends[0], input.interrupt[0], 100};
  CHECK(source.next().lines == Lines{"one"});
  const Batch batch = source.next();
  ::close(ends[0]);
  CHECK(batch.end == Batch::End::failed);
  CHECK(batch.error == system_error_of(ECONNRESET));
  CHECK(batch.lines.empty());
}

TEST_CASE("a caught signal is told once, with where it came from") {
  SignalCatcher catcher{std::array{SIGUSR1, SIGUSR2}};
  CHECK(catcher.take().empty());
  ::raise(SIGUSR1);
  ::raise(SIGUSR1);
  CHECK(is_readable(catcher.wake_fd()));
  const std::vector<Caught> caught = catcher.take();
  REQUIRE(caught.size() == 1);
  CHECK(caught.front().number == SIGUSR1);
  CHECK_FALSE(caught.front().from_kernel);
  CHECK(catcher.take().empty());
  CHECK_FALSE(is_readable(catcher.wake_fd()));
}

TEST_CASE("a caught signal asks to stop, and is still there to be taken") {
  SignalCatcher catcher{std::array{SIGUSR1}};
  const Interruption interruption{catcher};
  CHECK_FALSE(interruption.token().stop_requested());
  ::raise(SIGUSR1);
  while (!interruption.token().stop_requested()) {
    std::this_thread::yield();
  }
  CHECK(catcher.take().size() == 1);
}

TEST_CASE("a signal that was ignored is not caught, and what was there before comes back") {
  struct sigaction ignore {};
  ignore.sa_handler = SIG_IGN;
  struct sigaction before {};
  REQUIRE(::sigaction(SIGUSR2, &ignore, &before) == 0);
  struct sigaction now {};
  {
    SignalCatcher catcher{std::array{SIGUSR1, SIGUSR2}};
    ::raise(SIGUSR2);
    CHECK(catcher.take().empty());
    REQUIRE(::sigaction(SIGUSR1, nullptr, &now) == 0);
    CHECK((now.sa_handler != SIG_DFL));
  }
  REQUIRE(::sigaction(SIGUSR2, &before, &now) == 0);
  CHECK((now.sa_handler == SIG_IGN));
  REQUIRE(::sigaction(SIGUSR1, nullptr, &now) == 0);
  CHECK((now.sa_handler == SIG_DFL));
}

TEST_CASE("JSON is nested, escaped and always UTF-8") {
  JsonWriter json;
  json.begin_object();
  json.member("text", std::string{"a\"b\\\n\x01\xff"});
  json.member("none", std::optional<std::string>{});
  json.member("number", std::optional<std::int64_t>{-7});
  json.member("yes", true);
  json.key("list");
  json.begin_array();
  json.begin_object();
  json.end_object();
  json.text("x");
  json.begin_array();
  json.end_array();
  json.end_array();
  json.end_object();
  CHECK(json.finish() ==
        "{\n  \"text\": \"a\\\"b\\\\\\n\\u0001\xef\xbf\xbd\",\n  \"none\": null,\n  \"number\": -7,\n  \"yes\": true,\n"
        "  \"list\": [\n    {},\n    \"x\",\n    []\n  ]\n}\n");
}

TEST_CASE("a progress bar fits its line") {
  CHECK(bar_text("Work", 5, 10, 30) == "Work [#########         ] 5/10");
  CHECK(bar_text("Work", 10, 10, 200) == "Work [" + std::string(40, '#') + "] 10/10");
  CHECK(bar_text("Work", 0, 0, 30).find('?') == std::string::npos);
  for (std::size_t width = 0; width < 60; ++width) {
    CHECK(bar_text("Work", 3, 7, width).size() <= width);
    CHECK(bar_text("Work", 9, 7, width).size() <= width);
  }
}

}  // namespace
}  // namespace sessionlock::cli
