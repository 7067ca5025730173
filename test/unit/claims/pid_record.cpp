#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <sessionlock/pid_record.hpp>

#include "claims/pid_record.hpp"

using namespace sessionlock;

namespace {

PidRecord record_of(pid_t pid, std::optional<std::string> token = {}) {
  PidRecord record;
  record.pid = pid;
  record.start_token = std::move(token);
  return record;
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

TEST_CASE("the pid is the first word of the first line that is not blank") {
  const std::string nuls(3, '\0');
  for (const std::string& text :
       {std::string("     41237\n"), std::string("41237 \n"), std::string("41237\t"), std::string("\n \r\n41237\n"),
        std::string("41237\n\n"), std::string("41237\r\n/var/lib/data\r\n5432\r\n"),
        std::string("41237\n/var/lib/data\n1795846513\n5432\n"), "41237" + nuls, "41237\n" + nuls, nuls + "41237",
        std::string("41237\0/usr/sbin/daemon\n", 24)}) {
    CAPTURE(text);
    const PidRecord record = parse_pid_record(text);
    CHECK(record.pid == 41237);
    CHECK_FALSE(record.start_token);
    CHECK(record.corrupt_token == (text.find("/usr") != std::string::npos));
  }
  CHECK(parse_pid_record("  41237:123456 \nmore\n").start_token == "123456");
  CHECK(parse_pid_record("41237  123456\r\nmore").start_token == "123456");
  CHECK(parse_pid_record("\n {\"pid\": 7, \"startToken\": \"5\"}\n" + nuls).start_token == "5");
}

// Protects: a living process's file is never taken over for what stands behind its pid.
TEST_CASE("a pid ends at any blank, colon, carriage return, newline or NUL") {
  for (const char end : {' ', '\t', ':', '\r', '\n', '\0'}) {
    CAPTURE(static_cast<int>(end));
    CHECK(parse_pid_record(std::string("41237") + end + "word").pid == 41237);
    CHECK(parse_pid_record(std::string("41237") + end + "word\n").pid == 41237);
  }
  for (const char* text : {"41237-5", "41237,", "41237;5", "41237.0", "pid 41237"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_pid_record(text).pid);
  }
}

TEST_CASE("digits in the place of a pid are told apart from a pid") {
  for (const char* text : {"{\"pid\": \"7\"}", "{\"pid\":\"7\",\"port\":1}\n", "007", "{\"pid\": \"7\", \"po"}) {
    CAPTURE(text);
    const PidRecord record = parse_pid_record(text);
    CHECK_FALSE(record.pid);
    CHECK(record.digits_pid == 7);
    CHECK_FALSE(recorded_process(record));
  }
  CHECK_FALSE(parse_pid_record("7").digits_pid);
  CHECK_FALSE(parse_pid_record("{\"pid\": \"7 \"}").digits_pid);
}

TEST_CASE("what a text can be is told from what it cannot") {
  const auto form_of = [](std::string_view text) { return read_pid_text(text).form; };
  for (const char* text : {"7", "7:5", "7 x", "{\"pid\": 7}", " 7\nwords"}) {
    CAPTURE(text);
    CHECK(form_of(text) == PidTextForm::record);
  }
  for (const std::string& text : {std::string(), std::string(" \n\r\n"), std::string(4096, '\0')}) {
    CHECK(form_of(text) == PidTextForm::blank);
  }
  for (const char* text : {"{", "{\"p", "{\"pid\": ", "{\"pid\": 4123", "{\"pid\": 41237, \"startToken\": \"1"}) {
    CAPTURE(text);
    CHECK(form_of(text) == PidTextForm::torn);
  }
  for (const char* text : {"0", "99999999999", "{}", "{\"pid\": 0}", "{\"pid\": \"x\"}", "{\"pid\": null, \"a\": 1}"}) {
    CAPTURE(text);
    CHECK(form_of(text) == PidTextForm::no_pid);
  }
  for (const char* text : {"garbage", "-7", "7.5", "[7]", "[[package]]\nname = \"a\"\n", "{\"event\":\"start\"}\n",
                           "{\"pid\": 7}\n{\"pid\": 8}\n", "2026-11-20 started", "\"7\""}) {
    CAPTURE(text);
    CHECK(form_of(text) == PidTextForm::other);
  }
}

TEST_CASE("a corrupt second token is not ours, never no token") {
  for (const char* text : {"7:", "7 x", "7:x", "7:-1", "7:12 3", "7:012", "7 18446744073709551616", "7:1.5",
                           "{\"pid\": 7, \"startToken\": \"x\"}", "{\"pid\": 7, \"startToken\": 1.5}",
                           "{\"pid\": 7, \"startToken\": \"\"}", "{\"pid\": 7, \"startToken\": [1]}",
                           "{\"pid\": 7, \"startToken\": \"5\", \"startToken\": true}",
                           // Not as this library writes what ps(1) says.
                           "7:Sun Nov  1 03:31:48 2026"}) {
    CAPTURE(text);
    const PidRecord record = parse_pid_record(text);
    CHECK(record.corrupt_token);
    CHECK_FALSE(record.start_token);
    CHECK_FALSE(recorded_process(record));
  }
}

TEST_CASE("a token that is told to be unknown, or null, is none") {
  for (const char* text :
       {"7:unknown", "{\"pid\": 7, \"startToken\": null}", "{\"pid\": 7, \"startToken\": \"unknown\"}"}) {
    CAPTURE(text);
    const PidRecord record = parse_pid_record(text);
    CHECK_FALSE(record.corrupt_token);
    CHECK_FALSE(record.start_token);
  }
}

TEST_CASE("of two tokens in a JSON form the last one counts") {
  const PidRecord record = parse_pid_record("{\"pid\": 7, \"startToken\": \"x\", \"startToken\": \"5\"}");
  CHECK(record.start_token == "5");
  CHECK_FALSE(record.corrupt_token);
  CHECK_FALSE(parse_pid_record("{\"pid\": 7, \"startToken\": \"5\", \"startToken\": null}").start_token);
}

TEST_CASE("a JSON token may be a number, and keys may be escaped") {
  CHECK(parse_pid_record("{\"pid\": 7, \"startToken\": 5}").start_token == "5");
  CHECK(parse_pid_record("{\"pid\": 7, \"start\\u0054oken\": \"5\"}").start_token == "5");
}

TEST_CASE("a JSON form says where its pid is numbered, and on which file its witness is") {
  PidRecord record = record_of(41237, "123456");
  record.format = PidFileFormat::json;
  record.boot_id = "3f2b6c1e-7d0a-4e57-9a35-1d4c8f0b2a66";
  record.pid_namespace = 4026531836;
  record.time_namespace = 0;
  record.witness = "ofd:2049:1573042";
  record.extra_fields = "\"port\": 4711";
  const std::string text = format_pid_record(record);
  CHECK(text ==
        "{\"pid\": 41237, \"startToken\": \"123456\", \"bootId\": \"3f2b6c1e-7d0a-4e57-9a35-1d4c8f0b2a66\", "
        "\"pidNamespace\": 4026531836, \"timeNamespace\": 0, \"witness\": \"ofd:2049:1573042\", \"port\": 4711}\n");
  CHECK(parse_pid_record(text) == record);
  record.format = PidFileFormat::colon;
  CHECK(format_pid_record(record) == "41237:123456\n");
}

TEST_CASE("an application's own member of such a name is kept verbatim") {
  const PidRecord record = parse_pid_record("{\"pid\": 7, \"witness\": {\"name\": \"Ann\"}, \"pidNamespace\": \"a\"}");
  CHECK(record.pid == 7);
  CHECK_FALSE(record.witness);
  CHECK_FALSE(record.pid_namespace);
  CHECK(record.extra_fields == "\"witness\": {\"name\": \"Ann\"}, \"pidNamespace\": \"a\"");
  for (const std::string member :
       {"\"bootId\": 1", "\"pidNamespace\": -1", "\"timeNamespace\": 1.5", "\"witness\": null"}) {
    CAPTURE(member);
    CHECK(parse_pid_record("{\"pid\": 7, " + member + "}").extra_fields == member);
  }
}

TEST_CASE("fields of a JSON form that are not known are kept verbatim") {
  const std::string fields = R"("port": 4711.0, "startedAt": "a, \"b\": {", "deep": {"pid": 1, "x": [1, {"y": "]"}]})";
  const PidRecord record = parse_pid_record("{\"pid\":7 , " + fields + ", \"startToken\":\"5\"}");
  CHECK(record.pid == 7);
  CHECK(record.start_token == "5");
  CHECK(record.extra_fields == fields);
  CHECK(parse_pid_record(format_pid_record(record)) == record);
}

TEST_CASE("a token inside another member, or inside a text, is not the record's") {
  for (const std::string fields :
       {R"("deep": {"a": 1, "startToken": "9"})", R"("list": [1, {"startToken": "9"}, "startToken"])",
        R"("text": "a\",\"b")", R"("text": "a\", \"startToken\": \"9")",
        R"("text": "a\\", "b": ", \"startToken\": 9")"}) {
    CAPTURE(fields);
    const PidRecord record = parse_pid_record("{\"pid\": 7, \"startToken\": \"5\", " + fields + "}");
    CHECK(record.start_token == "5");
    CHECK_FALSE(record.corrupt_token);
    CHECK(record.extra_fields == fields);
  }
}

TEST_CASE("extra fields that would change what the record says are refused") {
  for (const char* fields : {"", " ", "\"port\": 1", "\"a\": {\"pid\": 1}, \"b\": [1, 2]"}) {
    CAPTURE(fields);
    CHECK(are_extra_fields(fields));
  }
  for (const char* fields :
       {"port", "\"port\": ", "\"port\": 1,", "\"port\": 1}", "\"pid\": 7", "\"startToken\": \"1\"",
        "\"bootId\": \"a\"", "\"witness\": 1", "\"p\\u0069d\": 7", "\"a\": 1}, {\"b\": 2", "1"}) {
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
  const std::string own_boot = "{\"pid\": 7, \"bootId\": \"" + this_process().boot_id + "\"";
  const std::string own_pids = ", \"pidNamespace\": " + std::to_string(this_process().pid_namespace);
  CHECK(recorded_process(parse_pid_record(own_boot + own_pids + ", \"timeNamespace\": 6}"))->time_namespace == 6);
  // Another process than the one that has this pid here.
  CHECK_FALSE(recorded_process(parse_pid_record(own_boot + ", \"pidNamespace\": 5}")));
  CHECK_FALSE(recorded_process(parse_pid_record("{\"pid\": 7, \"bootId\": \"another\"" + own_pids + "}")));
  // Not comparable here: it must not become a record without identity, which some may signal.
  CHECK_FALSE(recorded_process(parse_pid_record("41237 Fri Nov 20 03:31:48 2026")));
}

TEST_CASE("without a token the form with a space is the plain one") {
  PidRecord record = record_of(41237);
  record.format = PidFileFormat::space;
  CHECK(format_pid_record(record) == "41237\n");
}
