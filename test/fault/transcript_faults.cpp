// Every system call of a transcript's appends fails in every way it can.

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <sessionlock/sessionlock.hpp>

#include "faults.hpp"
#include "process.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::string_view_literals;

namespace {

constexpr std::string_view k_first = R"({"record":"the first of the test"})";
constexpr std::string_view k_second = R"({"record":"the second of the test"})";

/// How often a whole line stands in a text; the last one counts only with its newline.
std::ptrdiff_t count_lines(std::string_view text, std::string_view line) {
  std::ptrdiff_t count = 0;
  for (std::size_t end = 0; (end = text.find('\n')) != std::string_view::npos; text.remove_prefix(end + 1)) {
    count += text.substr(0, end) == line ? 1 : 0;
  }
  return count;
}

/// A held session with something in it.
struct Writer {
  Writer(const fs::path& directory, std::string_view content) : path(directory / "s.jsonl") {
    if (!content.empty()) {
      write_text(path, content);
    }
    lock = value_or_throw(manager.try_acquire(path));
  }
  ~Writer() { fs::remove(path); }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  Result<void> open(AppendOptions options) {
    auto opened = Transcript::open(lock, options);
    if (!opened) {
      return tl::unexpected(std::move(opened).error());
    }
    transcript.emplace(std::move(*opened));
    return {};
  }
  Result<void> append(std::string_view record) {
    const auto appended = transcript->append(record);
    left_bytes += appended ? appended->torn_bytes_left : 0;
    return appended ? Result<void>{} : tl::unexpected(appended.error());
  }

  fs::path path;
  LockManager manager{};
  SessionLock lock{};
  std::optional<Transcript> transcript{};
  /// Reported as no record, and still there.
  std::uint64_t left_bytes{0};
};

/// What the file began with, and what of it is to be in the transcript at last, and what beside it.
struct Content {
  std::string_view before{};
  std::vector<std::string_view> kept{};
  std::string_view torn{};
};

/// Whether every line of a session is a record, but for what a report said stays there; those kept are there, and the
/// torn one is saved, or stays.
std::string judge_file(const Writer& writer, const Content& content) {
  const std::string text = read_text(writer.path);
  std::istringstream lines(text);
  std::string no_records;
  for (std::string line; std::getline(lines, line);) {
    const bool stays = writer.left_bytes > 0 && line == content.torn;  // a number may be whole, or not
    no_records += is_transcript_record(line) && !stays ? "" : line;
  }
  if (no_records.size() != writer.left_bytes) {
    return "what is no record is not what was reported: " + no_records;
  }
  if (!text.empty() && text.back() != '\n') {
    return "the last line is not whole";
  }
  for (const auto record : content.kept) {
    if (count_lines(text, record) != (no_records.starts_with(record) ? 0 : 1)) {
      return "a record is lost or doubled: " + std::string(record);
    }
  }
  const std::string saved = read_text(writer.path.native() + ".torn");
  if (!content.torn.empty() && no_records.find(content.torn) == std::string::npos &&
      count_lines(saved, content.torn) < 1) {
    return "what was torn is lost";
  }
  return "";
}

/// Opens and appends with all faults, then once more without.
void append_with_faults(const std::string& operation, const Content& content, AppendOptions options = {}) {
  const auto situation = [&](const fs::path& directory) {
    auto writer = std::make_shared<Writer>(directory, content.before);
    const auto act = [writer, options]() -> Result<void> {
      auto opened = writer->open(options);
      return opened ? writer->append(k_first) : opened;
    };
    const auto judge = [writer, content, options](const Result<void>& result) -> std::string {
      const std::string left = read_text(writer->path);
      // Cutting back what was written can fail too; the error says so then.
      const bool said = !result && result.error().detail.find(" stay: ") != std::string::npos;
      const auto acknowledged = result ? 1 : 0;
      if (!said && count_lines(left, k_first) != acknowledged) {
        return "the answer and the file do not agree: " + left;
      }
      if (!writer->transcript && !writer->open(options)) {
        return "it cannot be opened afterwards";
      }
      if (const auto again = writer->append(k_second); !again) {
        return "it cannot be appended to afterwards: " + again.error().message();
      }
      const std::string now = read_text(writer->path);
      if (count_lines(now, k_second) != 1 || (result && count_lines(now, k_first) != 1)) {
        return "a record is lost or doubled: " + now;
      }
      const std::string wrong = judge_file(*writer, content);
      return !wrong.empty() ? wrong : writer->lock.verify() && writer->lock.release() ? "" : "the lock is not held";
    };
    return Trial{act, judge};
  };
  inject_faults({.operation = operation, .situation = situation, .own_errors = {Errc::timed_out}});
}

constexpr std::string_view k_old = R"({"old":1})";
constexpr std::string_view k_half_record = R"({"torn":)";

}  // namespace

TEST_CASE("whatever fails, a record is in a transcript once and whole, or not at all") {
  append_with_faults("append to a new transcript", {});
  append_with_faults("append to a transcript", {"{\"old\":1}\n", {k_old}, {}});
  append_with_faults("append to a new transcript, with fsync", {}, {.fsync = true});
  append_with_faults("append to a transcript, with fsync", {"{\"old\":1}\n", {k_old}, {}}, {.fsync = true});
}

TEST_CASE("whatever fails, what was torn is saved before it is cut off") {
  append_with_faults("append behind a missing newline", {"{\"old\":1}", {k_old}, {}});
  append_with_faults("append behind a torn line", {"{\"old\":1}\n{\"torn\":", {k_old}, k_half_record});
  append_with_faults("append behind nothing but a torn line, with fsync", {"{\"torn\":", {}, k_half_record},
                     {.fsync = true});
  const std::string number = "{\"old\":1}\n12";
  append_with_faults("append behind a torn number", {number, {k_old}, "12"});
  // Longer than one piece of the copy.
  const std::string torn = "[\"" + std::string(100'000, 'x');
  const std::string before = "{\"old\":1}\n" + torn;
  append_with_faults("append behind a long torn line", {before, {k_old}, torn});
}

TEST_CASE("whatever fails, a whole value stays, and NULs behind it go or are said to stay") {
  append_with_faults("append behind NULs", {"{\"old\":1}\n\0\0\0"sv, {k_old}, {}});
  append_with_faults("append behind a value and NULs", {"{\"old\":1}\0\0\0"sv, {k_old}, {}});
  append_with_faults("append behind a value, NULs and a torn line",
                     {"{\"old\":1}\0\0{\"torn\":\0"sv, {k_old}, k_half_record});
  const std::string hole = "{\"old\":1}" + std::string(70'000, '\0') + "{\"torn\":";
  append_with_faults("append behind many NULs", {hole, {k_old}, k_half_record});
}

TEST_CASE("whatever fails, a repair loses nothing") {
  const auto situation = [](const fs::path& directory) {
    auto writer = std::make_shared<Writer>(directory, "{\"old\":1}\n{\"torn\":\0\0"sv);
    return Trial{[writer]() -> Result<void> {
                   const auto report = Transcript::repair(writer->lock);
                   writer->left_bytes += report ? report->torn_bytes_left : 0;
                   return report ? Result<void>{} : tl::unexpected(report.error());
                 },
                 [writer](const Result<void>&) -> std::string {
                   const auto again = writer->open({}) ? writer->append(k_second) : tl::unexpected(Error{});
                   return again && writer->lock.release() ? judge_file(*writer, {{}, {k_old}, k_half_record})
                                                          : "nothing can be appended afterwards";
                 }};
  };
  inject_faults({.operation = "repair", .situation = situation, .own_errors = {Errc::timed_out}});
}

TEST_CASE("whatever fails, several records are appended together or not at all") {
  const auto situation = [](const fs::path& directory) {
    auto writer = std::make_shared<Writer>(directory, "");
    value_or_throw(writer->open({}));
    return Trial{[writer]() -> Result<void> {
                   const std::vector<std::string_view> records = {k_first, k_second};
                   const auto appended = writer->transcript->append(records);
                   return appended ? Result<void>{} : tl::unexpected(appended.error());
                 },
                 [writer](const Result<void>& result) -> std::string {
                   const std::string text = read_text(writer->path);
                   const auto both = count_lines(text, k_first) + count_lines(text, k_second);
                   const bool said = !result && result.error().detail.find(" stay: ") != std::string::npos;
                   if (!said && both != (result ? 2 : 0)) {
                     return "they are not together: " + text;
                   }
                   const auto again = writer->append("3");
                   return again && writer->lock.release() ? judge_file(*writer, {})
                                                          : "nothing can be appended afterwards";
                 }};
  };
  inject_faults({.operation = "append two records", .situation = situation, .own_errors = {Errc::timed_out}});
}
