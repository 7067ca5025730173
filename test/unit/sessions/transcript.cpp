#include <sessionlock/transcript.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sessionlock/lock_manager.hpp>

#include "process.hpp"
#include "script.hpp"
#include "system/system.hpp"

using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::string_view_literals;
namespace fs = std::filesystem;

namespace {

/// A session that is locked, with a transcript where it is wanted.
struct Session {
  explicit Session(std::optional<std::string_view> content = std::nullopt) {
    if (content) {
      write_text(path, *content);
    }
    lock = value_or_throw(manager.try_acquire(path));
  }
  Transcript open(AppendOptions options = {}) { return value_or_throw(Transcript::open(lock, options)); }
  [[nodiscard]] std::string text() const { return read_text(path); }
  [[nodiscard]] std::string torn() const { return read_text(torn_path); }

  TemporaryDirectory directory{};
  fs::path path{directory / "run.jsonl"};
  fs::path torn_path{directory / "run.jsonl.torn"};
  LockManager manager{};
  SessionLock lock{};
};

AppendReport must(Result<AppendReport> result) {
  return value_or_throw(std::move(result));
}

Error failed(const Result<AppendReport>& result) {
  return result ? Error{} : result.error();
}

/// Adds bytes as a program does that knows no lock.
void add_raw(const fs::path& path, std::string_view bytes) {
  write_text(path, read_text(path) + std::string(bytes));
}

/// As `add_raw`, for a file that is too long to be read.
void append_bytes(const fs::path& path, std::string_view bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::app);
  file << bytes << std::flush;
  REQUIRE(file.good());
}

/// Does something once, when a torn line has been copied and the cut comes next.
std::function<int(const sys::CallInfo&)> before_the_cut(std::function<void()> act) {
  return [act = std::move(act), done = false](const sys::CallInfo& info) mutable {
    if (info.call == sys::Call::fsync && !std::exchange(done, true)) {
      act();
    }
    return 0;
  };
}

mode_t mode_of(const fs::path& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 ? status.st_mode & 07777U : 0;
}

std::size_t count(const std::vector<sys::Call>& calls, sys::Call call) {
  return static_cast<std::size_t>(std::count(calls.begin(), calls.end(), call));
}

/// A disk that is full four bytes on; what is asked of it then fails with EIO, where it is this call.
Answer full_after_four_bytes(sys::Call failing_then) {
  return [failing_then, writes = 0](const sys::CallInfo& info) mutable {
    if (info.call == sys::Call::write) {
      *info.length = std::min<std::size_t>(*info.length, 4);
      return ++writes == 2 ? ENOSPC : 0;
    }
    return writes == 2 && info.call == failing_then ? EIO : 0;
  };
}

}  // namespace

// --- records ---------------------------------------------------------------------------------------------------------

TEST_CASE("a record is one JSON value on one line") {
  for (const auto text : {R"({"event":"start"})"sv, "null"sv, "1e400"sv, "98765432109876543210"sv, R"("a\nb")"sv,
                          " [1, 2] "sv, "{}\r"sv}) {
    CAPTURE(text);
    CHECK(is_transcript_record(text));
  }
  for (const auto text : {""sv, " "sv, "{}\n"sv, "\n{}"sv, "{\n}"sv, "{}{}"sv, "{"sv, "a"sv, "\"\xff\""sv, "{}\0"sv}) {
    CAPTURE(text);
    CHECK_FALSE(is_transcript_record(text));
  }
}

TEST_CASE("a record may be 64 MiB long and no longer") {
  std::string text(k_transcript_record_bytes_max, 'a');
  text.front() = text.back() = '"';
  CHECK(is_transcript_record(text));
  text.insert(1, "a");
  CHECK_FALSE(is_transcript_record(text));
}

TEST_CASE("records are appended whole, each on a line of its own") {
  Session session;
  auto transcript = session.open();
  const auto first = must(transcript.append(R"({"n":1})"));
  CHECK(first.records == 1);
  CHECK(first.offset == 0);
  CHECK(first.torn_bytes_moved == 0);
  const std::array more = {R"({"n":2})"sv, R"({"n":3})"sv};
  const auto second = must(transcript.append(more));
  CHECK(second.records == 2);
  CHECK(second.offset == 8);
  CHECK(session.text() == "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n");
}

TEST_CASE("records are added behind what is there") {
  Session session("{\"n\":0}\n");
  CHECK(must(session.open().append("1")).offset == 8);
  CHECK(session.text() == "{\"n\":0}\n1\n");
}

TEST_CASE("several records are one write") {
  Session session;
  auto transcript = session.open();
  std::vector<sys::Call> calls;
  const Script script([&](const sys::CallInfo& info) {
    calls.push_back(info.call);
    return 0;
  });
  const std::vector<std::string_view> records(500, R"({"n":1})");
  CHECK(must(transcript.append(records)).records == 500);
  CHECK(count(calls, sys::Call::write) == 1);
  calls.clear();
  (void)must(transcript.append("1"));
  // What an append costs once it knows the end of the file: the lock, both names, the write, the lock.
  CHECK(calls == std::vector{sys::Call::fstat, sys::Call::flock, sys::Call::fstatat, sys::Call::fstatat,
                             sys::Call::write, sys::Call::flock});
}

TEST_CASE("no records at all only ask for the lock") {
  Session session("12");
  auto transcript = session.open();
  const auto report = must(transcript.append(std::span<const std::string_view>{}));
  CHECK(report.records == 0);
  CHECK(report.offset == 2);
  CHECK(session.text() == "12");
  REQUIRE(session.lock.release());
  CHECK(failed(transcript.append(std::span<const std::string_view>{})).code == Errc::lost);
}

TEST_CASE("one bad record is named, and nothing is written") {
  Session session("{\"n\":0}\n{\"to");
  auto transcript = session.open();
  const std::map<std::string_view, std::string_view> faults = {{"", "record 2 is empty"},
                                                               {"{}\n", "record 2 has a newline in it"},
                                                               {"{", "record 2 is not one JSON value"},
                                                               {"1 2", "record 2 is not one JSON value"}};
  for (const auto& [text, detail] : faults) {
    const std::array records = {"1"sv, text, "also bad"sv};
    const Error error = failed(transcript.append(records));
    CHECK(error.code == Errc::invalid_record);
    CHECK(error.path == session.path);
    CHECK(error.detail == detail);
  }
  CHECK(failed(transcript.append("also bad")).detail == "record 1 is not one JSON value");
  const std::string long_record(k_transcript_record_bytes_max + 1, '1');
  CHECK(failed(transcript.append(long_record)).detail == "record 1 is longer than 64 MiB");
  CHECK(session.text() == "{\"n\":0}\n{\"to");
}

// --- the file --------------------------------------------------------------------------------------------------------

TEST_CASE("the session file is made where there is none, for its owner alone") {
  Session session;
  const mode_t before = ::umask(0);
  auto transcript = session.open();
  ::umask(before);
  CHECK(mode_of(session.path) == 0600);
  CHECK(session.text().empty());
  (void)must(transcript.append("1"));
}

TEST_CASE("a session that is no regular file is refused at once") {
  Session session;
  REQUIRE(::mkfifo(session.path.c_str(), 0600) == 0);
  const auto opened = Transcript::open(session.lock);
  REQUIRE_FALSE(opened);
  CHECK(opened.error().code == Errc::invalid_argument);
  CHECK(opened.error().path == session.path);
}

TEST_CASE("a session that became a symbolic link has another lock") {
  Session session;
  write_text(session.directory / "target", "");
  fs::create_symlink("target", session.path);
  const auto opened = Transcript::open(session.lock);
  REQUIRE_FALSE(opened);
  CHECK(opened.error().code == Errc::replaced_session);
}

TEST_CASE("nothing is written to a file that lost its name") {
  Session session("{\"n\":0}\n");
  auto transcript = session.open();
  (void)must(transcript.append("1"));
  const fs::path aside = session.directory / "aside";

  fs::rename(session.path, aside);
  CHECK(failed(transcript.append("2")).code == Errc::replaced_session);
  write_text(session.path, "new\n");
  const Error error = failed(transcript.append("3"));
  CHECK(error.code == Errc::replaced_session);
  CHECK(error.path == session.path);
  fs::remove(session.path);
  fs::create_symlink(aside, session.path);
  CHECK(failed(transcript.append("4")).code == Errc::replaced_session);
  CHECK(read_text(aside) == "{\"n\":0}\n1\n");

  fs::rename(aside, session.path);
  (void)must(transcript.append("5"));
  CHECK(session.text() == "{\"n\":0}\n1\n5\n");
}

TEST_CASE("a transcript is not lost with its directory's name") {
  TemporaryDirectory parent;
  fs::create_directory(parent / "old");
  LockManager manager;
  auto lock = value_or_throw(manager.try_acquire(parent / "old" / "run.jsonl"));
  auto transcript = value_or_throw(Transcript::open(lock));
  fs::rename(parent / "old", parent / "new");
  (void)must(transcript.append("1"));
  CHECK(read_text(parent / "new" / "run.jsonl") == "1\n");
}

// --- the lock --------------------------------------------------------------------------------------------------------

TEST_CASE("after the release nothing is written any more") {
  Session session;
  auto transcript = session.open();
  (void)must(transcript.append("1"));
  SUBCASE("by release") {
    REQUIRE(session.lock.release());
  }
  SUBCASE("by the end of the handle") {
    session.lock = SessionLock{};
  }
  const Error error = failed(transcript.append("2"));
  CHECK(error.code == Errc::lost);
  CHECK_FALSE(error.path.empty());
  CHECK(session.text() == "1\n");
}

TEST_CASE("a handle without a lock opens nothing") {
  SessionLock none;
  const auto opened = Transcript::open(none);
  REQUIRE_FALSE(opened);
  CHECK(opened.error().code == Errc::lost);
}

TEST_CASE("a lost lock is noticed before a byte is written or a file is made") {
  Session session;
  fs::remove(session.lock.lock_path());
  SUBCASE("while opening") {
    const auto opened = Transcript::open(session.lock);
    REQUIRE_FALSE(opened);
    CHECK(opened.error().code == Errc::lost);
    CHECK_FALSE(fs::exists(session.path));
  }
}

TEST_CASE("a lock that was taken away ends the appends, and a torn line stays as it is") {
  Session session("{\"to");
  auto transcript = session.open();
  fs::remove(session.lock.lock_path());
  auto successor = ChildProcess::run([&](Channel& parent) {
    auto lock = value_or_throw(LockManager{}.try_acquire(session.path));
    auto next = value_or_throw(Transcript::open(lock));
    parent.tell("acquired");
    parent.expect("append");
    REQUIRE_IN_CHILD(must(next.append("1")).torn_bytes_moved == 4);
    return 0;
  });
  successor.expect("acquired");
  CHECK(failed(transcript.append("1")).code == Errc::lost);
  CHECK(session.text() == "{\"to");
  CHECK_FALSE(fs::exists(session.torn_path));
  successor.tell("append");
  CHECK(successor.wait().exited_with(0));
  CHECK(session.text() == "1\n");
}

TEST_CASE("appending is possible inside a guarded write") {
  Session session;
  auto transcript = session.open();
  const auto report = session.lock.guarded([&] { return transcript.append("1"); });
  REQUIRE(report);
  CHECK(report->records == 1);
  (void)must(transcript.append("2"));
  CHECK(session.text() == "1\n2\n");
}

TEST_CASE("a moved transcript goes on, and what is left of it only says so") {
  Session session;
  auto first = session.open();
  auto second = std::move(first);
  (void)must(second.append("1"));
  CHECK(failed(first.append("2")).code == Errc::lost);  // NOLINT(bugprone-use-after-move)
  first = std::move(second);
  (void)must(first.append("3"));
  CHECK(session.text() == "1\n3\n");
}

TEST_CASE("a forked child cannot append") {
  Session session;
  auto transcript = session.open();
  auto child = ChildProcess::run([&](Channel&) {
    REQUIRE_IN_CHILD(failed(transcript.append("1")).code == Errc::lost);
    const auto opened = Transcript::open(session.lock);
    REQUIRE_IN_CHILD(!opened && opened.error().code == Errc::lost);
    return 0;
  });
  CHECK(child.wait().exited_with(0));
  CHECK(session.text().empty());
  (void)must(transcript.append("2"));
  CHECK(session.text() == "2\n");
}

// --- the torn last line ----------------------------------------------------------------------------------------------

TEST_CASE("a session that appears while it is opened is appended to") {
  Session session;
  int looks = 0;
  const Script script([&](const sys::CallInfo& info) {
    if (is_call_on(info, sys::Call::openat, "run.jsonl") && ++looks == 2) {
      write_text(session.path, "0\n");  // it was not there a moment ago
    }
    return 0;
  });
  CHECK(must(session.open().append("1")).offset == 2);
  CHECK(looks == 3);
  CHECK(session.text() == "0\n1\n");
}

TEST_CASE("what was moved before an append that failed is told of with what the next one moves") {
  Session session("{\"torn");
  auto transcript = session.open();
  {
    const Script script([&](const sys::CallInfo& info) {
      return info.call == sys::Call::write && !session.torn().empty() ? ENOSPC : 0;
    });
    CHECK(failed(transcript.append("1")).code == std::errc::no_space_on_device);
  }
  CHECK(session.text().empty());
  add_raw(session.path, "[2");
  CHECK(must(transcript.append("3")).torn_bytes_moved == 8);
  CHECK(session.text() == "3\n");
  CHECK(session.torn() == "{\"torn\n[2\n");
}

TEST_CASE("a long torn line of which only a part can be copied leaves nothing of itself beside") {
  const std::string torn = "\"" + std::string(150'000, 'x');  // copied in three pieces
  Session session(torn);
  int writes = 0;
  {
    const Script script([&](const sys::CallInfo& info) {
      writes += info.call == sys::Call::write ? 1 : 0;
      if (info.call == sys::Call::write && writes == 2) {
        *info.length /= 2;
      }
      return info.call == sys::Call::write && writes > 2 ? ENOSPC : 0;
    });
    CHECK(failed(session.open().append("1")).code == std::errc::no_space_on_device);
  }
  CHECK(session.text() == torn);
  CHECK(session.torn().empty());
  CHECK(must(session.open().append("1")).torn_bytes_moved == torn.size());
}

TEST_CASE("a torn last line is moved away before the first append, and said so once") {
  for (const std::string torn : {"{\"n\":1", "{\"n\":1]", "nul", "\"a", " ", "\r", "a", "null]", "\"a\":1}", "[1,"}) {
    CAPTURE(torn);
    Session session("{\"n\":0}\n" + torn);
    auto transcript = session.open();
    CHECK(session.text() == "{\"n\":0}\n" + torn);
    const auto report = must(transcript.append("1"));
    CHECK(report.torn_bytes_moved == torn.size());
    CHECK(report.offset == 8);
    CHECK(must(transcript.append("2")).torn_bytes_moved == 0);
    CHECK(session.text() == "{\"n\":0}\n1\n2\n");
    CHECK(session.torn() == torn + "\n");
  }
}

TEST_CASE("a crash may leave values, parts of values and NULs in any order, and each gets what is its") {
  struct Case {
    std::string_view what{};
    std::string_view before{};
    std::string_view kept{};
    std::string_view torn{};
    std::uint64_t nuls{};
  };
  for (const Case& one : {
           Case{"a value, NULs", "0\n{\"b\":2}\0\0\0"sv, "0\n{\"b\":2}\n", "", 3},
           Case{"a word, NULs", "null\0"sv, "null\n", "", 1},
           Case{"a line, NULs", "0\n{\"b\":2}\n\0\0\0"sv, "0\n{\"b\":2}\n", "", 3},
           Case{"a value, NULs, a part", "{\"b\":2}\0\0{\"c"sv, "{\"b\":2}\n", "{\"c\n", 2},
           Case{"a value, NULs, a part, NULs", "{\"b\":2}\0\0{\"c\0"sv, "{\"b\":2}\n", "{\"c\n", 3},
           Case{"a value, NULs, a value", "{\"b\":2}\0{\"c\":3}"sv, "{\"b\":2}\n", "{\"c\":3}\n", 1},
           Case{"a value, a part", "{\"b\":2}{\"c"sv, "{\"b\":2}\n", "{\"c\n", 0},
           Case{"a value, words", "[1] and more"sv, "[1]\n", " and more\n", 0},
           Case{"a value, a line's end, NULs", "{}\r\0"sv, "{}\r\n", "", 1},
           Case{"a value, NULs, a line's end", "{}\0\r"sv, "{}\n", "\r\n", 1},
           Case{"a part with NULs inside", "0\n{\"b\":\0\0 2}"sv, "0\n", "{\"b\":\0\0 2}\n"sv, 0},
           Case{"a part, NULs", "0\n{\"b\":\0\0"sv, "0\n", "{\"b\":\n", 2},
           Case{"a line, NULs, a part", "0\n\0\0{\"c"sv, "0\n", "{\"c\n", 2},
           Case{"a line, NULs, a value", "0\n\0\0{\"c\":3}"sv, "0\n\0\0{\"c\":3}\n"sv, "", 0},
           Case{"a line, NULs, a line", "0\n\0\0{\"c\":3}\n"sv, "0\n\0\0{\"c\":3}\n"sv, "", 0},
           Case{"a line, NULs, the end of a value", "0\n\0\0\"c\":3}"sv, "0\n", "\"c\":3}\n", 2},
           Case{"nothing but NULs", "\0\0\0\0"sv, "", "", 4},
           Case{"NULs, a newline, NULs", "\0\n\0\0"sv, "\0\n"sv, "", 2},
           Case{"a number, NULs", "0\n12\0\0"sv, "0\n", "12\n", 2},
           Case{"a byte-order mark, a value", "\xef\xbb\xbf{\"a\":1}"sv, "\xef\xbb\xbf{\"a\":1}\n", "", 0},
           Case{"the same behind a line", "0\n\xef\xbb\xbf{}"sv, "0\n\xef\xbb\xbf{}\n", "", 0},
           Case{"a byte-order mark, a value, NULs", "\xef\xbb\xbf{}\0"sv, "\xef\xbb\xbf{}\n", "", 1},
           Case{"a byte-order mark, a part", "0\n\xef\xbb\xbf{\"a"sv, "0\n", "\xef\xbb\xbf{\"a\n", 0},
           Case{"a byte-order mark alone", "\xef\xbb\xbf"sv, "", "\xef\xbb\xbf\n", 0},
       }) {
    CAPTURE(one.what);
    Session session(one.before);
    auto transcript = session.open();
    const auto report = must(transcript.append("9"));
    CHECK(session.text() == std::string(one.kept) + "9\n");
    CHECK(session.torn() == one.torn);
    CHECK(report.torn_bytes_moved == (one.torn.empty() ? 0 : one.torn.size() - 1));
    CHECK(report.nul_bytes_cut == one.nuls);
    CHECK(report.torn_bytes_left == 0);
    CHECK(report.offset == one.kept.size());
    const auto next = must(transcript.append("10"));
    CHECK(next.torn_bytes_moved + next.nul_bytes_cut == 0);
    CHECK(fs::exists(session.torn_path) == !one.torn.empty());
  }
}

TEST_CASE("NULs behind a newline are not looked for in a file that ends with one") {
  Session session("0\n\0\0\n"sv);
  CHECK(must(session.open().append("1")).nul_bytes_cut == 0);
  CHECK(session.text() == "0\n\0\0\n1\n"sv);
}

TEST_CASE("NULs that another program fills before they are cut off are no NULs any more") {
  // Protects: looking at the end again in `Transcript::State::cut_where_it_was`.
  Session session("0\n{\"b\":2}\0\0\0"sv);
  auto transcript = session.open();
  bool done = false;
  const Script script([&](const sys::CallInfo& info) {
    if (!done && info.call == sys::Call::statx) {  // what is left of looking at the end
      done = true;
      write_text(session.path, "0\n{\"b\":2}\n1\n");
    }
    return 0;
  });
  const auto report = must(transcript.append("9"));
  CHECK(done);
  CHECK(report.nul_bytes_cut == 0);
  CHECK(session.text() == "0\n{\"b\":2}\n1\n9\n");
}

TEST_CASE("NULs that were cut off before an append that failed are reported with the next") {
  Session session("0\n\0\0"sv);
  auto transcript = session.open();
  {
    const Script script(failing(sys::Call::write, ENOSPC));
    CHECK(failed(transcript.append("1")).code == std::errc::no_space_on_device);
  }
  CHECK(session.text() == "0\n");
  CHECK(must(transcript.append("1")).nul_bytes_cut == 2);
  CHECK(session.text() == "0\n1\n");
}

TEST_CASE("where a cut is refused for good, the torn line stays and gets a newline") {
  Session session("0\n{\"a"sv);
  auto transcript = session.open();
  {
    const Script script([&](const sys::CallInfo& info) {
      struct stat own {};
      struct stat status {};
      return info.call == sys::Call::ftruncate && ::fstat(info.fd, &own) == 0 &&
                     ::stat(session.path.c_str(), &status) == 0 && own.st_ino == status.st_ino
                 ? EPERM
                 : 0;
    });
    const auto report = must(transcript.append("1"));
    CHECK(report.torn_bytes_left == 3);
    CHECK(report.torn_bytes_moved == 0);
    CHECK(report.offset == 6);
  }
  CHECK(session.text() == "0\n{\"a\n1\n");
  CHECK(session.torn().empty());
}

TEST_CASE("a file that is nothing but a torn line becomes a transcript") {
  Session session("{\"n\":");
  CHECK(must(session.open().append("1")).offset == 0);
  CHECK(session.text() == "1\n");
  CHECK(session.torn() == "{\"n\":\n");
}

TEST_CASE("a complete JSON value only gets its newline") {
  for (const std::string last : {"{\"n\":1}", "[]", "\"text\"", "null", "true", " {} ", "{}\r"}) {
    CAPTURE(last);
    Session session("0\n" + last);
    const auto report = must(session.open().append("2"));
    CHECK(report.torn_bytes_moved == 0);
    CHECK(report.records == 1);
    CHECK(report.offset == 3 + last.size());
    CHECK(session.text() == "0\n" + last + "\n2\n");
    CHECK_FALSE(fs::exists(session.torn_path));
  }
}

TEST_CASE("a number without its newline may be torn, and is moved") {
  for (const std::string last : {"12", "-1", "1.5", " 7 "}) {
    CAPTURE(last);
    Session session("0\n" + last);
    CHECK(must(session.open().append("2")).torn_bytes_moved == last.size());
    CHECK(session.text() == "0\n2\n");
    CHECK(session.torn() == last + "\n");
  }
}

TEST_CASE("a torn line of any length is moved whole") {
  for (const std::size_t size : {65'535U, 65'536U, 65'537U, 5'000'000U}) {
    CAPTURE(size);
    std::string torn(size, 'x');
    for (std::size_t i = 0; i < size; i += 997) {
      torn[i] = static_cast<char>('a' + i % 26);
    }
    Session session("{}\n" + torn);
    CHECK(must(session.open().append("1")).torn_bytes_moved == size);
    CHECK(session.text() == "{}\n1\n");
    CHECK((session.torn() == torn + "\n"));
  }
}

TEST_CASE("a torn line longer than any record is moved without being held in memory") {
  Session session;
  constexpr std::uint64_t size = std::uint64_t{256} << 20U;
  write_text(session.path, "{}\nx");
  REQUIRE(::truncate(session.path.c_str(), 3 + size - 1) == 0);  // a hole, which takes no time to make
  append_bytes(session.path, "x");
  auto transcript = session.open();
  std::size_t longest = 0;
  const Script script([&](const sys::CallInfo& info) {
    if (info.length != nullptr) {
      longest = std::max(longest, *info.length);
    }
    return 0;
  });
  CHECK(must(transcript.append("1")).torn_bytes_moved == size);
  CHECK(session.text() == "{}\n1\n");
  CHECK(fs::file_size(session.torn_path) == size + 1);
  CHECK(longest < 1'000'000);
}

TEST_CASE("a transcript that is cut while its end is looked for is left alone, and that is said") {
  Session session("0\n{\"torn");
  auto transcript = session.open();
  const Script script([&](const sys::CallInfo& info) {
    if (info.call == sys::Call::pread) {
      fs::resize_file(session.path, 0);
    }
    return 0;
  });
  const Error error = failed(transcript.append("1"));
  CHECK(error.code == std::errc::io_error);
  CHECK(error.detail == "somebody cut it meanwhile");
  CHECK(session.text().empty());
  CHECK(!fs::exists(session.torn_path));
}

TEST_CASE("a torn line stays where it is when the end of the file for torn lines cannot be read") {
  Session session("0\n{\"torn");
  write_text(session.torn_path, "before\n");
  auto transcript = session.open();
  {
    int last_bytes = 0;
    const Script script([&](const sys::CallInfo& info) {  // the last byte of the one file, then of the other
      return info.call == sys::Call::pread && *info.length == 1 && ++last_bytes == 2 ? EIO : 0;
    });
    const Error error = failed(transcript.append("1"));
    CHECK(error.code == std::errc::io_error);
    CHECK(error.path == session.torn_path);
  }
  CHECK(session.text() == "0\n{\"torn");
  CHECK(session.torn() == "before\n");
}

TEST_CASE("torn lines collect one below the other") {
  Session session("{\"a");
  auto transcript = session.open();
  (void)must(transcript.append("1"));
  add_raw(session.path, "{\"b");
  CHECK(must(transcript.append("2")).torn_bytes_moved == 3);
  CHECK(session.text() == "1\n2\n");
  CHECK(session.torn() == "{\"a\n{\"b\n");
}

TEST_CASE("what a killed repair left in the torn file stays on its own line") {
  Session session("{\"abc");
  write_text(session.torn_path, "{\"old\n{\"a");
  (void)must(session.open().append("1"));
  CHECK(session.torn() == "{\"old\n{\"a\n{\"abc\n");
}

TEST_CASE("whoever may read the session may read its torn lines") {
  Session session("{\"a");
  fs::permissions(session.path, fs::perms{0640});
  const mode_t before = ::umask(0);
  (void)must(session.open().append("1"));
  ::umask(before);
  CHECK(mode_of(session.torn_path) == 0640);
}

TEST_CASE("others' writes between two appends are looked at") {
  Session session;
  auto transcript = session.open();
  (void)must(transcript.append("1"));
  add_raw(session.path, "{\"whole\":1}\n");
  CHECK(must(transcript.append("2")).torn_bytes_moved == 0);
  add_raw(session.path, "{\"part");
  CHECK(must(transcript.append("3")).torn_bytes_moved == 6);
  add_raw(session.path, "{}");
  CHECK(must(transcript.append("4")).torn_bytes_moved == 0);
  CHECK(session.text() == "1\n{\"whole\":1}\n2\n3\n{}\n4\n");
}

TEST_CASE("a torn line that cannot be saved stays where it is") {
  Session session("1\n{\"a");
  SUBCASE("a directory is in the way") {
    fs::create_directory(session.torn_path);
    CHECK(failed(session.open().append("2")).code == std::errc::is_a_directory);
  }
  SUBCASE("a symbolic link is in the way") {
    write_text(session.directory / "target", "");
    fs::create_symlink("target", session.torn_path);
    const Error error = failed(session.open().append("2"));
    CHECK(error.code == std::errc::too_many_symbolic_link_levels);
    CHECK(error.path == session.torn_path);
    CHECK(read_text(session.directory / "target").empty());
  }
  SUBCASE("a FIFO is in the way") {
    REQUIRE(::mkfifo(session.torn_path.c_str(), 0600) == 0);
    CHECK(failed(session.open().append("2")).code == Errc::invalid_argument);
  }
  CHECK(session.text() == "1\n{\"a");
}

TEST_CASE("a torn line that cannot be cut off is not saved again and again") {
  Session session("1\n{\"a");
  auto transcript = session.open();
  {
    const Script script([&](const sys::CallInfo& info) {
      struct stat status {};
      REQUIRE(::stat(session.path.c_str(), &status) == 0);
      struct stat own {};
      return info.call == sys::Call::ftruncate && ::fstat(info.fd, &own) == 0 && own.st_ino == status.st_ino ? EIO : 0;
    });
    const Error error = failed(transcript.append("2"));
    CHECK(error.code == std::errc::io_error);
    CHECK(error.operation == "ftruncate");
    CHECK(error.path == session.path);
  }
  CHECK(session.text() == "1\n{\"a");
  CHECK(session.torn().empty());
  CHECK(must(transcript.append("2")).torn_bytes_moved == 3);
  CHECK(session.torn() == "{\"a\n");
}

TEST_CASE("a torn line is on stable storage before it is cut off") {
  Session session("1\n{\"a");
  auto transcript = session.open();
  std::vector<sys::Call> calls;
  const Script script([&](const sys::CallInfo& info) {
    calls.push_back(info.call);
    return 0;
  });
  (void)must(transcript.append("2"));
  const auto cut = std::find(calls.begin(), calls.end(), sys::Call::ftruncate);
  REQUIRE(cut != calls.end());
  CHECK(std::count(calls.begin(), cut, sys::Call::fsync) == 2);  // the file and its name
  CHECK(std::count(cut, calls.end(), sys::Call::fsync) == 0);
}

TEST_CASE("a torn line that another program completes while it is copied stays, and gets no second copy") {
  // Protects: the comparison before the cut in `Transcript::State::cut_where_it_was`.
  Session session("{\"a\":1}\n{\"b\":");
  auto transcript = session.open();
  bool done = false;
  const Script script(before_the_cut([&] {
    done = true;
    add_raw(session.path, "2}\n");
  }));
  const auto report = must(transcript.append(R"({"c":3})"));
  CHECK(done);
  CHECK(report.torn_bytes_moved == 0);
  CHECK(session.text() == "{\"a\":1}\n{\"b\":2}\n{\"c\":3}\n");
  CHECK(session.torn().empty());
}

TEST_CASE("a transcript that another program cuts while its torn line is copied is not lengthened again") {
  Session session("{\"a\":1}\n{\"b\":");
  auto transcript = session.open();
  bool done = false;
  const Script script(before_the_cut([&] {
    done = true;
    REQUIRE(::truncate(session.path.c_str(), 0) == 0);
  }));
  (void)must(transcript.append(R"({"c":3})"));
  CHECK(done);
  CHECK(session.text() == "{\"c\":3}\n");
  CHECK(session.torn().empty());
}

TEST_CASE("a torn line that another program overwrites while it is copied is copied again") {
  Session session("0\n{\"a\":");
  auto transcript = session.open();
  bool done = false;
  const Script script(before_the_cut([&] {
    done = true;
    write_text(session.path, "0\n{\"b\":");
  }));
  CHECK(must(transcript.append("1")).torn_bytes_moved == 5);
  CHECK(done);
  CHECK(session.text() == "0\n1\n");
  CHECK(session.torn() == "{\"b\":\n");
}

TEST_CASE("a transcript whose end changes each time is left alone, and that is said") {
  Session session("{\"b\":");
  auto transcript = session.open();
  const Script script([&](const sys::CallInfo& info) {
    if (info.call == sys::Call::fsync) {
      add_raw(session.path, "x");
    }
    return 0;
  });
  CHECK(failed(transcript.append(R"({"c":3})")).code == Errc::torn_transcript);
  CHECK(session.text().starts_with("{\"b\":x"));
  CHECK(session.torn().empty());
}

TEST_CASE("a session on which another process has a lease is opened once that is given up") {
  // Protects: EAGAIN in `AppendedFile::open`.
  Session session("{\"a\":1}\n");
  auto reader = ChildProcess::run([&](Channel& parent) {
    ::signal(SIGIO, SIG_IGN);
    const int fd = ::open(session.path.c_str(), O_RDONLY | O_CLOEXEC);
    REQUIRE_IN_CHILD(fd >= 0 && ::fcntl(fd, F_SETLEASE, F_RDLCK) == 0);
    parent.tell("leased");
    parent.expect("give it up");
    REQUIRE_IN_CHILD(::fcntl(fd, F_SETLEASE, F_UNLCK) == 0);
    return 0;
  });
  reader.expect("leased");
  int opens = 0;
  const Script script([&](const sys::CallInfo& info) {
    if (info.call == sys::Call::openat && ++opens == 2) {  // the first was told EAGAIN
      reader.tell("give it up");
      REQUIRE(reader.wait().exited_with(0));
    }
    return 0;
  });
  (void)must(session.open().append(R"({"c":3})"));
  CHECK(opens >= 2);
  CHECK(session.text() == "{\"a\":1}\n{\"c\":3}\n");
}

TEST_CASE("what was moved is reported although the append after it failed") {
  Session session("1\n{\"a");
  auto transcript = session.open();
  {
    int writes = 0;
    const Script script([&](const sys::CallInfo& info) {
      return info.call == sys::Call::write && ++writes == 2 ? ENOSPC : 0;  // the first is to the torn file
    });
    CHECK(failed(transcript.append("2")).code == std::errc::no_space_on_device);
  }
  CHECK(session.text() == "1\n");
  CHECK(must(transcript.append("3")).torn_bytes_moved == 3);
  CHECK(session.text() == "1\n3\n");
}

TEST_CASE("under a joined lock nothing is repaired, since another writer may be in mid-line") {
  Session session("1\n{\"a");
  auto joined = value_or_throw(session.manager.join(session.path, session.lock.record().lock_id.value_or("")));
  auto transcript = value_or_throw(Transcript::open(joined));
  for (const std::string text : {"1\n{\"a", "1\n{}", "1\n2"}) {
    write_text(session.path, text);
    const Error error = failed(transcript.append("3"));
    CHECK(error.code == Errc::torn_transcript);
    CHECK(error.path == session.path);
    CHECK(session.text() == text);
  }
  CHECK_FALSE(fs::exists(session.torn_path));
  write_text(session.path, "1\n2\n");
  CHECK(must(transcript.append("3")).offset == 4);
  CHECK(session.text() == "1\n2\n3\n");
  REQUIRE(session.lock.release());
  CHECK(failed(transcript.append("4")).code == Errc::lost);
}

// --- a repair alone --------------------------------------------------------------------------------------------------

TEST_CASE("a repair does what an append would do first, and adds no record") {
  Session session("{\"n\":0}\n{\"n\":1}{\"n\0"sv);
  const auto report = must(Transcript::repair(session.lock));
  CHECK(report.records == 0);
  CHECK(report.torn_bytes_moved == 3);
  CHECK(report.nul_bytes_cut == 1);
  CHECK(session.text() == "{\"n\":0}\n{\"n\":1}\n");
  const auto again = must(Transcript::repair(session.lock));
  CHECK(again.torn_bytes_moved + again.nul_bytes_cut == 0);
  CHECK(session.text() == "{\"n\":0}\n{\"n\":1}\n");
}

TEST_CASE("a repair makes no session") {
  Session session;
  (void)must(Transcript::repair(session.lock));
  CHECK_FALSE(fs::exists(session.path));
}

TEST_CASE("a repair makes no session in the place of one that is removed meanwhile") {
  Session session("{\"torn");
  const Script script([&](const sys::CallInfo& info) {
    if (is_call_on(info, sys::Call::openat, "run.jsonl")) {
      fs::remove(session.path);
    }
    return 0;
  });
  CHECK(must(Transcript::repair(session.lock)).torn_bytes_moved == 0);
  CHECK_FALSE(fs::exists(session.path));
}

TEST_CASE("a repair leaves alone what is no transcript") {
  for (const auto text : {"words and words"sv, "{\n  \"a\": 1\n}"sv, "\0\0\0\0"sv, "1\n2\n3"sv, "{{ name }}"sv}) {
    CAPTURE(text);
    Session session(text);
    CHECK(must(Transcript::repair(session.lock)).torn_bytes_moved == 0);
    CHECK(session.text() == text);
    CHECK_FALSE(fs::exists(session.torn_path));
  }
}

TEST_CASE("a repair opens nothing but a regular file") {
  Session session;
  SUBCASE("a FIFO") {
    REQUIRE(::mkfifo(session.path.c_str(), 0600) == 0);
  }
  SUBCASE("a directory") {
    fs::create_directory(session.path);
  }
  SUBCASE("a link") {
    write_text(session.directory / "target", "{\"torn");
    fs::create_symlink("target", session.path);
  }
  int opens = 0;
  const Script script([&](const sys::CallInfo& info) {
    opens += is_call_on(info, sys::Call::openat, "run.jsonl") ? 1 : 0;
    return 0;
  });
  CHECK(must(Transcript::repair(session.lock)).torn_bytes_moved == 0);
  CHECK(opens == 0);
}

TEST_CASE("a repair needs the lock, and says what keeps it from its work") {
  Session session("{\"torn");
  fs::create_directory(session.torn_path);
  CHECK(failed(Transcript::repair(session.lock)).path == session.torn_path);
  {
    const Script script(
        [](const sys::CallInfo& info) { return is_call_on(info, sys::Call::openat, "run.jsonl") ? EIO : 0; });
    CHECK(failed(Transcript::repair(session.lock)).code == std::errc::io_error);
  }
  REQUIRE(session.lock.release());
  CHECK(failed(Transcript::repair(session.lock)).code == Errc::lost);
  SessionLock none;
  CHECK(failed(Transcript::repair(none)).code == Errc::lost);
  CHECK(session.text() == "{\"torn");
}

// --- failures --------------------------------------------------------------------------------------------------------

TEST_CASE("a write that ends short and cannot go on is cut back") {
  Session session("0\n");
  auto transcript = session.open();
  (void)must(transcript.append("1"));
  {
    int writes = 0;
    const Script script([&](const sys::CallInfo& info) {
      if (info.call != sys::Call::write) {
        return 0;
      }
      *info.length = std::min<std::size_t>(*info.length, 5);
      return ++writes == 3 ? ENOSPC : 0;
    });
    const std::array records = {R"({"n":2})"sv, R"({"n":3})"sv};
    const Error error = failed(transcript.append(records));
    CHECK(error.code == std::errc::no_space_on_device);
    CHECK(error.operation == "write");
    CHECK(error.path == session.path);
    CHECK(error.detail.empty());
  }
  CHECK(session.text() == "0\n1\n");
  CHECK(must(transcript.append("4")).torn_bytes_moved == 0);
  CHECK(session.text() == "0\n1\n4\n");
}

TEST_CASE("a write that ends short and can go on is finished") {
  Session session;
  auto transcript = session.open();
  const Script script([&](const sys::CallInfo& info) {
    if (info.call == sys::Call::write) {
      *info.length = std::min<std::size_t>(*info.length, 3);
    }
    return 0;
  });
  const std::array records = {R"({"n":2})"sv, R"({"n":3})"sv};
  CHECK(must(transcript.append(records)).records == 2);
  CHECK(session.text() == "{\"n\":2}\n{\"n\":3}\n");
}

TEST_CASE("a failed append takes no other program's bytes along") {
  Session session("0\n");
  auto transcript = session.open();
  {
    int writes = 0;
    const Script script([&](const sys::CallInfo& info) {
      if (info.call != sys::Call::write) {
        return 0;
      }
      *info.length = std::min<std::size_t>(*info.length, 4);
      if (++writes < 2) {
        return 0;
      }
      add_raw(session.path, "[\"other\"]\n");
      return EIO;
    });
    const Error error = failed(transcript.append(R"({"n":2})"));
    CHECK(error.code == std::errc::io_error);
    CHECK(error.detail == "4 bytes of it stay: others have written behind them");
  }
  CHECK(session.text() == "0\n{\"n\"[\"other\"]\n");
}

TEST_CASE("what cannot be looked at is not cut back") {
  Session session("0\n");
  auto transcript = session.open();
  {
    const Script script(full_after_four_bytes(sys::Call::fstat));
    CHECK(failed(transcript.append(R"({"n":2})")).code == std::errc::no_space_on_device);
  }
  CHECK(session.text() == "0\n{\"n\"");
}

TEST_CASE("what cannot be cut back is said, and repaired by the next append") {
  Session session("0\n");
  auto transcript = session.open();
  {
    const Script script(full_after_four_bytes(sys::Call::ftruncate));
    const Error error = failed(transcript.append(R"({"n":2})"));
    CHECK(error.code == std::errc::no_space_on_device);
    CHECK(error.detail == "4 bytes of it stay: ftruncate: Input/output error");
  }
  CHECK(session.text() == "0\n{\"n\"");
  CHECK(must(transcript.append("1")).torn_bytes_moved == 4);
  CHECK(session.text() == "0\n1\n");
}

TEST_CASE("with fsync the records and the name of the file are on stable storage") {
  Session session;
  std::vector<sys::Call> calls;
  const Script script([&](const sys::CallInfo& info) {
    calls.push_back(info.call);
    return 0;
  });
  auto transcript = session.open({.fsync = true});
  CHECK(count(calls, sys::Call::fsync) == 1);
  calls.clear();
  (void)must(transcript.append("1"));
  const auto written = std::find(calls.begin(), calls.end(), sys::Call::write);
  CHECK(std::count(written, calls.end(), sys::Call::fsync) == 1);
  calls.clear();
  (void)must(transcript.append("2"));
  CHECK(count(calls, sys::Call::fsync) == 1);
}

TEST_CASE("records that did not reach stable storage are taken back") {
  Session session("0\n");
  auto transcript = session.open({.fsync = true});
  {
    const Script script([&](const sys::CallInfo& info) { return info.call == sys::Call::fsync ? EIO : 0; });
    const Error error = failed(transcript.append("1"));
    CHECK(error.code == std::errc::io_error);
    CHECK(error.operation == "fsync");
    CHECK(error.path == session.path);
  }
  CHECK(session.text() == "0\n");
  (void)must(transcript.append("2"));
  CHECK(session.text() == "0\n2\n");
}

TEST_CASE("a directory that cannot be synchronised does not stand in the way") {
  for (const int error : {EINVAL, EACCES}) {
    Session session("1\n{\"a");
    const Script script([&](const sys::CallInfo& info) {
      if (error == EACCES) {
        return is_call_on(info, sys::Call::openat, ".") ? EACCES : 0;
      }
      struct stat status {};
      return info.call == sys::Call::fsync && ::fstat(info.fd, &status) == 0 && S_ISDIR(status.st_mode) ? EINVAL : 0;
    });
    auto transcript = session.open({.fsync = true});
    CHECK(must(transcript.append("2")).torn_bytes_moved == 3);
  }
}

TEST_CASE("a file-size limit ends an append and not the program") {
  auto child = ChildProcess::run([](Channel&) {
    Session session("0\n");
    auto transcript = session.open();
    REQUIRE_IN_CHILD(transcript.append("1"));
    const struct rlimit limit = {10, 10};
    REQUIRE_IN_CHILD(::signal(SIGXFSZ, SIG_DFL) != SIG_ERR && ::setrlimit(RLIMIT_FSIZE, &limit) == 0);
    const auto result = transcript.append(R"({"n":1234567})");
    REQUIRE_IN_CHILD(!result && result.error().code == std::errc::file_too_large);
    REQUIRE_IN_CHILD(session.text() == "0\n1\n");
    sigset_t pending;
    REQUIRE_IN_CHILD(::sigpending(&pending) == 0 && ::sigismember(&pending, SIGXFSZ) == 0);
    return 0;
  });
  CHECK(child.wait().exited_with(0));
}

TEST_CASE("whichever call fails, nothing leaks and no line is torn") {
  // Fails the first, second, … call in turn, until there are no more: of an open, a repair, and an append.
  bool failed_once = true;
  for (int nth = 1; failed_once; ++nth) {
    for (const int error : {EIO, ENOSPC, EMFILE}) {
      CAPTURE(nth);
      CAPTURE(error);
      Session session("1\n{\"a");
      const std::size_t descriptors = sys::open_descriptor_count();
      failed_once = false;
      Result<AppendReport> report;
      {
        int calls = 0;
        const Script script([&](const sys::CallInfo&) {
          if (++calls != nth) {
            return 0;
          }
          failed_once = true;
          return error;
        });
        auto transcript = Transcript::open(session.lock, {.fsync = true});
        report = transcript ? transcript->append("2") : tl::unexpected(transcript.error());
      }
      CHECK(sys::open_descriptor_count() == descriptors);
      CHECK((session.text() == "1\n{\"a" || session.text() == "1\n" || session.text() == "1\n2\n"));
      CHECK((session.text() == "1\n{\"a" || session.torn() == "{\"a\n"));
      if (!report) {
        CHECK_FALSE(report.error().operation.empty());
        CHECK_FALSE(report.error().path.empty());
      } else {
        CHECK(session.text() == "1\n2\n");
      }
      if (!session.lock.owns()) {  // a descriptor that cannot be asked about is not taken for ours
        session.lock = value_or_throw(session.manager.try_acquire(session.path));
      }
      (void)must(session.open().append("3"));
      const std::string text = session.text();
      CHECK((text == "1\n3\n" || text == "1\n2\n3\n"));
    }
  }
}
