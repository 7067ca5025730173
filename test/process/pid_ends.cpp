// How claims of PID files end: which file goes with a claim, which one stays, and what is left of a claim that is
// killed.

#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <unistd.h>

#include <sessionlock/pid_file.hpp>

#include "lock_tools.hpp"
#include "process.hpp"
#include "protocol/temporary_name.hpp"
#include "publishing.hpp"
#include "script.hpp"

using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;

namespace {

PidFileOptions options_of(PidFileFormat format) {
  PidFileOptions options;
  options.format = format;
  options.timeout = k_patience;
  return options;
}

std::string own_pid() {
  return std::to_string(::getpid());
}

std::string own_token(std::uint64_t offset = 0) {
  return std::to_string(process_start_time(::getpid()).value() + offset);
}

/// Claims a file in a form, lets another text be written into it, and checks that the end of the claim keeps it.
void check_kept(PidFileFormat format, const std::string& text) {
  CAPTURE(text);
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  auto claim = PidFile::claim(path, options_of(format));
  REQUIRE(claim->file);
  write_text(path, text);
  const auto released = claim->file->release();
  REQUIRE_FALSE(released);
  CHECK(released.error().code == Errc::lost);
  CHECK(released.error().path == path);
  CHECK_FALSE(claim->file->owns());
  CHECK(claim->file->release().has_value());  // of nothing
  claim->file.reset();
  CHECK(read_text(path) == text);
  CHECK(is_unguarded(path));
}

/// The same for one that goes.
void check_removed(PidFileFormat format, const std::string& text) {
  CAPTURE(text);
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  auto claim = PidFile::claim(path, options_of(format));
  REQUIRE(claim->file);
  write_text(path, text);
  CHECK(claim->file->release().has_value());
  CHECK(names_in(directory.path()).empty());
}

std::string json_of(const std::string& token, const std::string& rest = "") {
  return "{\"pid\": " + own_pid() + ", \"startToken\": \"" + token + "\"" + rest + "}\n";
}

}  // namespace

// Protects: a daemon that went into the background and wrote its own pid keeps its file when the claim ends.
TEST_CASE("a claim that ends keeps a file that names another process now, and is told that it is lost") {
  auto daemon = idle_process();
  const std::string other = std::to_string(daemon.pid());
  for (const auto format : {PidFileFormat::json, PidFileFormat::colon, PidFileFormat::space, PidFileFormat::plain}) {
    check_kept(format, other + "\n");
    check_kept(format, other + ":" + own_token() + "\n");
    check_kept(format, "{\"pid\": " + other + "}\n");
  }
}

// Protects: a process of another container has the same pid, and writes it into the file that both share.
TEST_CASE("the same pid is not the same owner where the claim wrote a token, and another is there, or none") {
  for (const auto format : {PidFileFormat::json, PidFileFormat::colon, PidFileFormat::space}) {
    check_kept(format, own_pid() + "\n");
    check_kept(format, own_pid() + ":unknown\n");
    check_kept(format, own_pid() + ":" + own_token(1) + "\n");
    check_kept(format, own_pid() + ":x\n");
    check_kept(format, json_of(own_token(1)));
  }
  check_kept(PidFileFormat::plain, own_pid() + ":" + own_token(1) + "\n");
  check_kept(PidFileFormat::plain, own_pid() + ":x\n");
}

TEST_CASE("the same pid and token of another boot or PID namespace are another owner's") {
  const std::string elsewhere = std::to_string(this_process().pid_namespace + 1);
  check_kept(PidFileFormat::json, json_of(own_token(), ", \"pidNamespace\": " + elsewhere));
  check_kept(PidFileFormat::json, json_of(own_token(), ", \"bootId\": \"00000000-0000-4000-8000-000000000000\""));
}

TEST_CASE("what is empty, torn, too long or no PID file is not removed by the claim whose file it was") {
  for (const std::string& text :
       {std::string(), std::string("\n"), std::string(20, '\0'), std::string("{\"pid\": "), std::string("{}"),
        std::string("[]"), std::string("words\n"), own_pid() + ":" + own_token() + std::string(64 * 1024, ' ')}) {
    check_kept(PidFileFormat::colon, text);
  }
}

TEST_CASE("a file that says more of the same owner, or the same in another form, goes with the claim") {
  check_removed(PidFileFormat::json, json_of(own_token(), ", \"port\": 4711"));
  check_removed(PidFileFormat::json, own_pid() + ":" + own_token() + "\n");
  check_removed(PidFileFormat::colon, json_of(own_token()));
  check_removed(PidFileFormat::plain, own_pid() + "\n4711\n");
  check_removed(PidFileFormat::plain, own_pid() + " " + own_token() + "\n");
}

TEST_CASE("a file that cannot be read is kept, and its claim can be released once it can be") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  auto claim = PidFile::claim(path);
  REQUIRE(claim->file);
  for (const int error : {EIO, ENOMEM}) {
    const Script script(failing(sys::Call::pread, error));
    CHECK(claim->file->release().error().code == std::error_code(error, std::system_category()));
    CHECK(claim->file->owns());
  }
  CHECK(is_unguarded(path));
  CHECK(std::filesystem::exists(path));
  CHECK(claim->file->release().has_value());
  CHECK(names_in(directory.path()).empty());
}

TEST_CASE("on another inode a bare pid is not enough where it is not trusted, and a token is") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  const PidFilePolicy distrustful{.without_token = UnverifiedOwner::stale};
  for (const std::string& text : {own_pid() + "\n", "{\"pid\": " + own_pid() + "}\n"}) {
    write_text(path, text);
    CHECK(remove_pid_file(path, RemoveWhose::own, distrustful).error().code == Errc::locked);
    CHECK(read_text(path) == text);
    ProcessIdentity without_start = this_process();
    without_start.start_time_ticks.reset();
    CHECK(remove_pid_file(path, RemoveWhose::own, distrustful, without_start).error().code == Errc::locked);
    CHECK(remove_pid_file(path, RemoveWhose::own)->removed);
  }
  write_text(path, own_pid() + ":" + own_token() + "\n");
  CHECK(remove_pid_file(path, RemoveWhose::own, distrustful)->removed);
}

TEST_CASE("a process's own file is not one that names the same pid and token in another PID namespace") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  const std::string elsewhere = std::to_string(this_process().pid_namespace + 1);
  write_text(path, json_of(own_token(), ", \"pidNamespace\": " + elsewhere));
  CHECK(remove_pid_file(path, RemoveWhose::own).error().code == Errc::locked);
  CHECK(std::filesystem::exists(path));
}

// --- Files that describe a former owner ------------------------------------------------------------------------------

TEST_CASE("a claim that is lost before it removes a former owner's files removes none, and says so") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  const auto port = directory / "serve.port";
  write_text(port, "of the successor");
  auto successor = idle_process();
  const std::string text = std::to_string(successor.pid()) + "\n";
  PidFileOptions options = options_of(PidFileFormat::json);
  options.invalidate = {port};
  bool is_done = false;
  const Script script(outermost([&](const sys::CallInfo& info) {
    // The claim stands, and has locked nothing yet.
    if (!is_done && info.call == sys::Call::flock && std::filesystem::exists(path)) {
      is_done = true;
      write_text(directory / "new", text);
      std::filesystem::rename(directory / "new", path);
    }
    return 0;
  }));
  const auto claim = PidFile::claim(path, options);
  REQUIRE_FALSE(claim);
  CHECK(is_done);
  CHECK(claim.error().code == Errc::lost);
  CHECK(read_text(port) == "of the successor");
  CHECK(read_text(path) == text);
}

TEST_CASE("no other claim can begin while a claim removes a former owner's files") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  PidFileOptions options = options_of(PidFileFormat::json);
  options.invalidate = {directory / "a", directory / "b"};
  write_text(directory / "a", "");
  write_text(directory / "b", "");
  int removals = 0;
  const Script script(outermost([&](const sys::CallInfo& info) {
    if (is_call_on(info, sys::Call::unlinkat, "/a") || is_call_on(info, sys::Call::unlinkat, "/b")) {
      ++removals;
      CHECK_FALSE(is_unguarded(path));
    }
    return 0;
  }));
  const auto claim = PidFile::claim(path, options);
  REQUIRE(claim->file);
  CHECK(removals == 2);
  CHECK(is_unguarded(path));
  CHECK(names_in(directory.path()) == std::vector<std::string>{"serve.pid"});
}

// --- What a killed claim leaves --------------------------------------------------------------------------------------

namespace {

/// Whether a claim in a directory of its own is about to write its temporary file, or to give the whole file its name.
bool is_about_to(sys::Call call, const sys::CallInfo& info, const std::filesystem::path& path) {
  const auto names = names_in(path.parent_path());
  // A link is tried out before that, with an empty file.
  return info.call == call && (call == sys::Call::write || !read_text(path.parent_path() / names.front()).empty());
}

/// Lets a claim be killed there, where files cannot be nameless. Its temporary file stays.
void kill_claim_at(const std::filesystem::path& path, sys::Call call) {
  auto child = ChildProcess::run([&](Channel&) {
    const Script script([&](const sys::CallInfo& info) {
      if (is_about_to(call, info, path)) {
        ::raise(SIGKILL);
      }
      return no_nameless_files(info);
    });
    return PidFile::claim(path) ? 0 : 1;
  });
  CHECK(child.wait().killed_by(SIGKILL));
}

std::filesystem::path temporary_of(const std::filesystem::path& path, char digit) {
  return path.parent_path() / temporary_name(path.filename().native(), std::string(32, digit));
}

}  // namespace

TEST_CASE("the next claim removes what a killed claim left, at once if it names the dead owner") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  kill_claim_at(path, sys::Call::linkat);
  REQUIRE(names_in(directory.path()).size() == 1);
  CHECK(PidFile::claim(path)->file);
  CHECK(names_in(directory.path()).empty());
}

TEST_CASE("the next claim removes what was not written to its end when it is ten minutes old") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  kill_claim_at(path, sys::Call::write);
  write_text(temporary_of(path, 'b'), "{\"pid\": 4");
  REQUIRE(names_in(directory.path()).size() == 2);
  CHECK(PidFile::claim(path)->file);
  REQUIRE(names_in(directory.path()).size() == 2);
  for (const std::string& name : names_in(directory.path())) {
    make_older(directory / name, 11min);
  }
  CHECK(PidFile::claim(path)->file);
  CHECK(names_in(directory.path()).empty());
}

TEST_CASE("a claim that meets a living owner removes nothing") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  kill_claim_at(path, sys::Call::linkat);
  auto owner = idle_process();
  write_text(path, std::to_string(owner.pid()));
  CHECK(PidFile::claim(path)->running);
  CHECK(names_in(directory.path()).size() == 2);
}

TEST_CASE("a file under a temporary name stays that is locked, a living process's, another file's or no PID file") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  auto living = idle_process();
  write_text(temporary_of(path, '1'), std::to_string(living.pid()));
  write_text(temporary_of(path, '2'), "a stranger's\n");
  write_text(temporary_of(path, '3'), "{}");
  write_text(temporary_of(path, '4'), std::string(64 * 1024 + 1, '\0'));
  write_text(temporary_of(directory / "other.pid", '5'), std::to_string(dead_pid()));
  std::filesystem::create_symlink("elsewhere", temporary_of(path, '6'));
  std::filesystem::create_directory(temporary_of(path, '7'));
  write_text(temporary_of(path, '8'), std::to_string(dead_pid()));
  const SecondDescription locked(temporary_of(path, '8'));
  locked.flock();
  for (const std::string& name : names_in(directory.path())) {
    if (std::filesystem::is_regular_file(directory / name)) {
      make_older(directory / name, 24h);
    }
  }
  const auto before = names_in(directory.path());
  REQUIRE(before.size() == 8);
  CHECK(PidFile::claim(path)->file);
  CHECK(names_in(directory.path()) == before);
}

// Protects: the temporary file of a claim whose child has ended is its publisher's, and so is one that is being
// written.
TEST_CASE("the temporary file of a claim in progress stays while its publisher lives, however old it looks") {
  for (const sys::Call call : {sys::Call::write, sys::Call::linkat}) {
    const TemporaryDirectory directory;
    const auto path = directory / "serve.pid";
    auto child = ChildProcess::run([&](Channel& parent) {
      bool was_told = false;
      const Script script([&](const sys::CallInfo& info) {
        if (is_about_to(call, info, path) && !std::exchange(was_told, true)) {
          parent.tell("here");
          parent.expect("go");
        }
        return no_nameless_files(info);
      });
      PidFileOptions options = options_of(PidFileFormat::json);
      options.owner = this_process();
      options.owner->pid = dead_pid();
      const auto claim = PidFile::claim(path, options);
      parent.tell(claim && claim->file ? "claimed" : "not");
      (void)parent.hear();
      return 0;
    });
    child.expect("here");
    REQUIRE(names_in(directory.path()).size() == 1);
    make_older(directory / names_in(directory.path()).front(), 24h);
    CHECK(PidFile::claim(path)->file);
    CHECK(names_in(directory.path()).size() == 1);
    child.tell("go");
    child.expect("claimed");
  }
}
