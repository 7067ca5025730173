#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sessionlock/lock_manager.hpp>
#include <sessionlock/transcript.hpp>

#include "process.hpp"
#include "script.hpp"
#include "system/system.hpp"

using namespace sessionlock;
using namespace sessionlock::test;
namespace fs = std::filesystem;

namespace {

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    lines.push_back(line);
  }
  return lines;
}

bool is_whole(const std::string& text) {
  const auto lines = lines_of(text);
  return (text.empty() || text.back() == '\n') && std::all_of(lines.begin(), lines.end(), is_transcript_record);
}

struct Files {
  TemporaryDirectory directory{};
  fs::path session{directory / "run.jsonl"};
  fs::path torn{directory / "run.jsonl.torn"};
};

/// Appends one record under a lock of its own, as the next writer does.
AppendReport append_next(const fs::path& session, std::string_view record) {
  auto lock = value_or_throw(LockManager{}.acquire(session));
  auto transcript = value_or_throw(Transcript::open(lock));
  return value_or_throw(transcript.append(record));
}

}  // namespace

TEST_CASE("a writer that is killed in the middle of an append loses that append alone") {
  Files files;
  auto writer = ChildProcess::run([&](Channel& parent) {
    auto lock = value_or_throw(LockManager{}.acquire(files.session));
    auto transcript = value_or_throw(Transcript::open(lock));
    REQUIRE_IN_CHILD(transcript.append(R"({"n":1})"));
    int writes = 0;
    const Script script([&](const sys::CallInfo& info) {
      if (info.call == sys::Call::write && ++writes == 1) {
        *info.length /= 2;
      } else if (info.call == sys::Call::write) {
        parent.tell("half written");
        (void)parent.hear();
      }
      return 0;
    });
    REQUIRE_IN_CHILD(transcript.append(R"({"n":2})"));
    return 0;
  });
  writer.expect("half written");
  CHECK(read_text(files.session) == "{\"n\":1}\n{\"n\"");
  CHECK(writer.kill().killed_by(SIGKILL));

  auto lock = value_or_throw(LockManager{}.acquire(files.session));
  REQUIRE(lock.reclaimed_from());
  CHECK(lock.reclaimed_from()->reasons.front() == StaleReason::dead_pid);
  auto transcript = value_or_throw(Transcript::open(lock));
  const auto report = value_or_throw(transcript.append(R"({"n":3})"));
  CHECK(report.torn_bytes_moved == 4);
  CHECK(read_text(files.session) == "{\"n\":1}\n{\"n\":3}\n");
  CHECK(read_text(files.torn) == "{\"n\"\n");
}

TEST_CASE("a repair that is killed at any step loses nothing") {
  const std::string torn(200'000, 'x');
  bool finished = false;
  for (int nth = 1; !finished; ++nth) {
    CAPTURE(nth);
    Files files;
    write_text(files.session, "0\n" + torn);
    auto writer = ChildProcess::run([&](Channel&) {
      auto lock = value_or_throw(LockManager{}.acquire(files.session));
      auto transcript = value_or_throw(Transcript::open(lock));
      int calls = 0;
      const Script script([&](const sys::CallInfo&) {
        if (++calls == nth) {
          ::raise(SIGKILL);
        }
        return 0;
      });
      REQUIRE_IN_CHILD(transcript.append("1"));
      return 0;
    });
    const Ended ended = writer.wait();
    finished = ended.exited_with(0);
    CHECK((finished || ended.killed_by(SIGKILL)));

    (void)append_next(files.session, "2");
    const auto lines = lines_of(read_text(files.session));
    CHECK(is_whole(read_text(files.session)));
    CHECK(lines.front() == "0");
    CHECK(lines.back() == "2");
    CHECK(lines.size() == (finished || lines.size() == 3 ? 3 : 2));
    const auto saved = lines_of(read_text(files.torn));
    CHECK(std::count(saved.begin(), saved.end(), torn) >= 1);
    CHECK(std::all_of(saved.begin(), saved.end(), [&](const std::string& line) { return torn.starts_with(line); }));
  }
}

TEST_CASE("a full disk takes no part of an append") {
  std::string why_not;
  const auto disk = TmpfsMount::mount("size=64k", &why_not);
  if (!disk) {
    skip_aloud(why_not);
    return;
  }
  const auto session = *disk / "run.jsonl";
  auto lock = value_or_throw(LockManager{}.acquire(session));
  auto transcript = value_or_throw(Transcript::open(lock, {.fsync = true}));
  REQUIRE(transcript.append(R"({"n":1})"));

  const std::string record = "\"" + std::string(10'000, 'x') + "\"";
  const std::vector<std::string_view> records(20, record);
  const auto refused = transcript.append(records);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == std::errc::no_space_on_device);
  CHECK(refused.error().path == session);
  CHECK(read_text(session) == "{\"n\":1}\n");

  REQUIRE(transcript.append(R"({"n":2})"));
  CHECK(read_text(session) == "{\"n\":1}\n{\"n\":2}\n");
}

TEST_CASE("a full disk keeps a torn line where it is") {
  std::string why_not;
  const auto disk = TmpfsMount::mount("size=256k", &why_not);
  if (!disk) {
    skip_aloud(why_not);
    return;
  }
  const auto session = *disk / "run.jsonl";
  const std::string text = "1\n" + std::string(150'000, 'x');
  write_text(session, text);
  auto lock = value_or_throw(LockManager{}.acquire(session));
  auto transcript = value_or_throw(Transcript::open(lock));
  const auto refused = transcript.append("2");
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == std::errc::no_space_on_device);
  CHECK(refused.error().path == *disk / "run.jsonl.torn");
  CHECK((read_text(session) == text));
  CHECK(read_text(*disk / "run.jsonl.torn").empty());
}

TEST_CASE("a read-only file system is named as what it is") {
  std::string why_not;
  const auto disk = TmpfsMount::mount("size=64k", &why_not);
  if (!disk) {
    skip_aloud(why_not);
    return;
  }
  const auto session = *disk / "run.jsonl";
  TemporaryDirectory locks;  // elsewhere: a hold keeps its file open for writing
  auto lock = value_or_throw(LockManager{{.lock_directory = locks.path()}}.acquire(session));
  REQUIRE(disk->remount("ro"));
  const auto opened = Transcript::open(lock);
  REQUIRE_FALSE(opened);
  CHECK(opened.error().code == std::errc::read_only_file_system);
  CHECK(opened.error().path == session);
  REQUIRE(disk->remount("size=64k"));
}

TEST_CASE("a stopped writer whose lock was forced away writes nothing when it goes on") {
  Files files;
  auto writer = ChildProcess::run([&](Channel& parent) {
    auto lock = value_or_throw(LockManager{}.acquire(files.session));
    auto transcript = value_or_throw(Transcript::open(lock));
    REQUIRE_IN_CHILD(transcript.append(R"({"by":"writer","n":1})"));
    parent.tell(lock.record().lock_id.value_or(""));
    parent.expect("go on");
    const auto result = transcript.append(R"({"by":"writer","n":2})");
    REQUIRE_IN_CHILD(!result && result.error().code == Errc::lost);
    return 0;
  });
  const auto lock_id = writer.hear().value_or("");
  writer.stop();
  REQUIRE(LockManager{}.force_release(files.session, lock_id, true));
  (void)append_next(files.session, R"({"by":"successor"})");
  const std::string before = read_text(files.session);
  writer.resume();
  writer.tell("go on");
  CHECK(writer.wait().exited_with(0));
  CHECK(read_text(files.session) == before);
}

TEST_CASE("a session that another program replaces is not written behind its back") {
  Files files;
  auto writer = ChildProcess::run([&](Channel& parent) {
    auto lock = value_or_throw(LockManager{}.acquire(files.session));
    auto transcript = value_or_throw(Transcript::open(lock));
    REQUIRE_IN_CHILD(transcript.append("1"));
    parent.tell("appended");
    parent.expect("replaced");
    const auto result = transcript.append("2");
    REQUIRE_IN_CHILD(!result && result.error().code == Errc::replaced_session);
    // Who opens it again, on purpose, writes to the new one.
    auto again = value_or_throw(Transcript::open(lock));
    REQUIRE_IN_CHILD(again.append("3"));
    return 0;
  });
  writer.expect("appended");
  const auto rotated = files.directory / "run.1.jsonl";
  fs::rename(files.session, rotated);
  write_text(files.directory / "new", "0\n");
  fs::rename(files.directory / "new", files.session);
  writer.tell("replaced");
  CHECK(writer.wait().exited_with(0));
  CHECK(read_text(rotated) == "1\n");
  CHECK(read_text(files.session) == "0\n3\n");
}

TEST_CASE("writers that take turns lose, tear and double nothing") {
  constexpr int writers = 4;
  constexpr int appends = 50;
  Files files;
  std::vector<ChildProcess> children;
  for (int w = 0; w < writers; ++w) {
    children.push_back(ChildProcess::run([&, w](Channel&) {
      LockManager manager;
      for (int n = 0; n < appends; ++n) {
        auto lock = value_or_throw(manager.acquire(files.session));
        auto transcript = value_or_throw(Transcript::open(lock));
        const std::string record = "[" + std::to_string(w) + "," + std::to_string(n) + "]";
        const std::vector<std::string_view> records(static_cast<std::size_t>(1 + n % 3), record);
        REQUIRE_IN_CHILD(transcript.append(records));
      }
      return 0;
    }));
  }
  for (auto& child : children) {
    CHECK(child.wait().exited_with(0));
  }
  const std::string text = read_text(files.session);
  CHECK(is_whole(text));
  const auto lines = lines_of(text);
  for (int w = 0; w < writers; ++w) {
    for (int n = 0; n < appends; ++n) {
      const std::string record = "[" + std::to_string(w) + "," + std::to_string(n) + "]";
      CHECK(std::count(lines.begin(), lines.end(), record) == 1 + n % 3);
    }
  }
  CHECK_FALSE(fs::exists(files.torn));
}

TEST_CASE("another user's session can be appended to where its mode allows it") {
  if (!can_become_second_user()) {
    skip_aloud("becoming another user needs root");
    return;
  }
  Files files;
  fs::permissions(files.directory.path(), fs::perms{01777});  // sticky, as /tmp
  write_text(files.session, "1\n{\"a");
  fs::permissions(files.session, fs::perms{0666});
  auto writer = ChildProcess::run([&](Channel&) {
    become_second_user();
    REQUIRE_IN_CHILD(append_next(files.session, "2").torn_bytes_moved == 3);
    return 0;
  });
  CHECK(writer.wait().exited_with(0));
  CHECK(read_text(files.session) == "1\n2\n");
  CHECK(read_text(files.torn) == "{\"a\n");
}
