#include <iterator>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <sessionlock/pid_file.hpp>

#include "claims/pid_record.hpp"

using namespace sessionlock;

namespace {

PidRecord record_of(pid_t pid, std::optional<std::string> token = {}) {
  PidRecord record;
  record.pid = pid;
  record.start_token = std::move(token);
  return record;
}

PidFileState state_of(const PidRecord& record, Liveness liveness, const std::optional<std::string>& token,
                      const PidFilePolicy& policy = {}) {
  return judge_pid_record(record, liveness, token, policy).state;
}

}  // namespace

TEST_CASE("each form of a PID file is written and read back") {
  for (const auto& [format, token, written] :
       std::vector<std::tuple<PidFileFormat, std::optional<std::string>, std::string>>{
           {PidFileFormat::json, "123456", "{\"pid\": 41237, \"startToken\": \"123456\"}\n"},
           {PidFileFormat::json, std::nullopt, "{\"pid\": 41237}\n"},
           {PidFileFormat::colon, "123456", "41237:123456\n"},
           {PidFileFormat::colon, std::nullopt, "41237:unknown\n"},
           {PidFileFormat::colon, "Fri Nov 20 03:31:48 2026", "41237:Fri Nov 20 03:31:48 2026\n"},
           {PidFileFormat::space, "123456", "41237 123456\n"},
           {PidFileFormat::plain, std::nullopt, "41237\n"}}) {
    const std::string& text = written;  // Clang 14 captures no structured binding
    CAPTURE(text);
    PidRecord record = record_of(41237, token);
    record.format = format;
    CHECK(format_pid_record(record) == text);
    CHECK(parse_pid_record(text) == record);
  }
}

TEST_CASE("every reader accepts the plain form, with one newline or none") {
  for (const char* text : {"41237", "41237\n", "41237\r\n"}) {
    CHECK(parse_pid_record(text) == record_of(41237));
  }
}

TEST_CASE("records that name no usable process have no pid") {
  for (const char* text : {"",
                           "\n",
                           "0",
                           "-1",
                           "2147483648",
                           "9223372036854775808",
                           " 7",
                           "7\n\n",
                           "+7",
                           "007",
                           "7.0",
                           "x",
                           "0:5",
                           "{}",
                           "{\"pid\": 0}",
                           "{\"pid\": -1}",
                           "{\"pid\": 2147483648}",
                           "{\"pid\": 9223372036854775808}",
                           "{\"pid\": \"7 \"}",
                           "{\"pid\": \"7\"}",
                           "{\"pid\": 7",
                           "[7]",
                           "{\"pid\": 7} x"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_pid_record(text).pid);
    CHECK_FALSE(recorded_process(parse_pid_record(text)));
  }
}

TEST_CASE("a corrupt second token is not ours, never no token") {
  for (const char* text : {"7 ", "7:", "7 x", "7:x", "7:-1", "7:12 3", "7:012", "7 18446744073709551616", "7:1.5",
                           "{\"pid\": 7, \"startToken\": \"x\"}", "{\"pid\": 7, \"startToken\": 1.5}",
                           "{\"pid\": 7, \"startToken\": \"\"}", "{\"pid\": 7, \"startToken\": [1]}",
                           "{\"pid\": 7, \"startToken\": \"5\", \"startToken\": true}"}) {
    CAPTURE(text);
    const PidRecord record = parse_pid_record(text);
    CHECK(record.corrupt_token);
    CHECK_FALSE(record.start_token);
    CHECK_FALSE(recorded_process(record));
    CHECK(state_of(record, Liveness::alive, "5") == PidFileState::invalid);
    CHECK(state_of(record, Liveness::dead, {}) == PidFileState::stale);
  }
}

TEST_CASE("a token that is told to be unknown, or null, is none") {
  for (const char* text :
       {"7:unknown", "{\"pid\": 7, \"startToken\": null}", "{\"pid\": 7, \"startToken\": \"unknown\"}"}) {
    CAPTURE(text);
    const PidRecord record = parse_pid_record(text);
    CHECK_FALSE(record.corrupt_token);
    CHECK_FALSE(record.start_token);
    CHECK(state_of(record, Liveness::alive, "5") == PidFileState::alive);
  }
}

TEST_CASE("a JSON token may be a number, and keys may be escaped") {
  CHECK(parse_pid_record("{\"pid\": 7, \"startToken\": 5}").start_token == "5");
  CHECK(parse_pid_record("{\"pid\": 7, \"start\\u0054oken\": \"5\"}").start_token == "5");
}

TEST_CASE("fields of a JSON form that are not known are kept verbatim") {
  const std::string fields = R"("port": 4711.0, "startedAt": "a, \"b\": {", "deep": {"pid": 1, "x": [1, {"y": "]"}]})";
  const PidRecord record = parse_pid_record("{\"pid\":7 , " + fields + ", \"startToken\":\"5\"}");
  CHECK(record.pid == 7);
  CHECK(record.start_token == "5");
  CHECK(record.extra_fields == fields);
  CHECK(parse_pid_record(format_pid_record(record)) == record);
}

TEST_CASE("extra fields that would change what the record says are refused") {
  for (const char* fields : {"", " ", "\"port\": 1", "\"a\": {\"pid\": 1}, \"b\": [1, 2]"}) {
    CAPTURE(fields);
    CHECK(are_extra_fields(fields));
  }
  for (const char* fields : {"port", "\"port\": ", "\"port\": 1,", "\"port\": 1}", "\"pid\": 7",
                             "\"startToken\": \"1\"", "\"p\\u0069d\": 7", "\"a\": 1}, {\"b\": 2", "1"}) {
    CAPTURE(fields);
    CHECK_FALSE(are_extra_fields(fields));
  }
}

TEST_CASE("a recorded process is one of this boot, with the token as its start time") {
  const auto process = recorded_process(parse_pid_record("41237:123456"));
  REQUIRE(process);
  CHECK(process->pid == 41237);
  CHECK(process->start_time_ticks == 123456);
  CHECK(process->boot_id == this_process().boot_id);
  CHECK_FALSE(recorded_process(parse_pid_record("41237"))->start_time_ticks);
  // Not comparable here: it must not become a record without identity, which some may signal.
  CHECK_FALSE(recorded_process(parse_pid_record("41237 Fri Nov 20 03:31:48 2026")));
}

TEST_CASE("no record names nobody; dead is stale; an equal token is alive; another one is a reused pid") {
  CHECK(state_of({}, Liveness::unknown, {}) == PidFileState::invalid);
  CHECK(state_of(record_of(7, "5"), Liveness::dead, {}) == PidFileState::stale);
  CHECK_FALSE(judge_pid_record(record_of(7, "5"), Liveness::dead, {}, {}).recycled);
  CHECK(state_of(record_of(7, "5"), Liveness::alive, "5") == PidFileState::alive);
  const auto reused = judge_pid_record(record_of(7, "5"), Liveness::alive, "6", {});
  CHECK(reused.state == PidFileState::stale);
  CHECK(reused.recycled);
  CHECK(state_of(record_of(7, "5"), Liveness::unknown, "5") == PidFileState::unknown);
}

TEST_CASE("the explanation tells dead from reused") {
  CHECK(judge_pid_record(record_of(7, "5"), Liveness::dead, {}, {}).explanation() == "Stale: pid 7 is dead.");
  CHECK(judge_pid_record(record_of(7, "5"), Liveness::alive, "6", {}).explanation() ==
        "Stale: pid 7 was reused by a process that started at another time.");
}

TEST_CASE("without a stored token liveness alone decides, unless the policy is to respawn") {
  const auto trusted = judge_pid_record(record_of(7), Liveness::alive, "5", {});
  CHECK(trusted.state == PidFileState::alive);
  CHECK(trusted.unverified);
  PidFilePolicy respawn;
  respawn.without_token = UnverifiedOwner::stale;
  CHECK(state_of(record_of(7), Liveness::alive, "5", respawn) == PidFileState::stale);
  CHECK(state_of(record_of(7, "5"), Liveness::alive, "5", respawn) == PidFileState::alive);
}

TEST_CASE("a token that cannot be read now is the caller's policy, alive by default") {
  CHECK(state_of(record_of(7, "5"), Liveness::alive, {}) == PidFileState::alive);
  PidFilePolicy policy;
  policy.unreadable_token = UnverifiedOwner::stale;
  CHECK(state_of(record_of(7, "5"), Liveness::alive, {}, policy) == PidFileState::stale);
}

TEST_CASE("tokens of different providers cannot be compared") {
  CHECK(state_of(record_of(7, "Fri Nov 20 03:31:48 2026"), Liveness::alive, "5") == PidFileState::unknown);
}

TEST_CASE("without a token the form with a space is the plain one") {
  PidRecord record = record_of(41237);
  record.format = PidFileFormat::space;
  CHECK(format_pid_record(record) == "41237\n");
}

TEST_CASE("each state has a word, and an explanation of its own") {
  constexpr std::pair<PidFileState, std::string_view> k_words[] = {{PidFileState::missing, "missing"},
                                                                   {PidFileState::alive, "alive"},
                                                                   {PidFileState::stale, "stale"},
                                                                   {PidFileState::invalid, "invalid"},
                                                                   {PidFileState::unknown, "unknown"}};
  std::set<std::string> explanations;
  for (const auto& [state, word] : k_words) {
    CHECK(to_string(state) == word);
    PidFileInspection found;
    found.state = state;
    found.record = record_of(7);
    explanations.insert(found.explanation());
  }
  CHECK(explanations.size() == std::size(k_words));
  PidFileInspection odd;
  odd.state = static_cast<PidFileState>(77);
  CHECK(to_string(odd.state) == "unknown");
  CHECK(odd.explanation().starts_with("Unknown: nothing that can be seen from here tells whether nobody "));
}
