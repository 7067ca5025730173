#include <sessionlock/lock_record.hpp>

#include <doctest/doctest.h>

#include <cstdlib>
#include <limits>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <pthread.h>

#include "process.hpp"
#include "sanitizers.hpp"

using sessionlock::format_lock_record;
using sessionlock::LockRecord;
using sessionlock::parse_lock_record;

namespace {

// Set while a test plays a machine without memory for simdjson, which allocates with these.
[[maybe_unused]] thread_local bool t_no_memory = false;

const LockRecord k_empty{};

/// The record of `{"pid": 7, NAME: VALUE}`, which must be a JSON text for the pid to be there.
LockRecord with_field(const std::string& name, const std::string& value) {
  LockRecord record = parse_lock_record("{\"pid\": 7, \"" + name + "\": " + value + "}");
  CHECK_MESSAGE((name == "pid" || record.pid == 7), name, " = ", value);
  return record;
}

std::optional<pid_t> pid_of(const std::string& value) {
  // A neighbour that stays shows that the field was dropped alone.
  const LockRecord record = parse_lock_record("{\"pid\": " + value + ", \"host\": \"h\"}");
  CHECK_MESSAGE(record.host == "h", value);
  return record.pid;
}

std::string repeated(const std::string& text, std::size_t times) {
  std::string result;
  for (std::size_t i = 0; i < times; ++i) {
    result += text;
  }
  return result;
}

LockRecord full_record() {
  LockRecord record;
  record.pid = 41237;
  record.created_at = "2026-11-20T03:31:48.712Z";
  record.starttime = 18446744073709551615U;
  record.max_hold_ms = 300000;
  record.lock_id = "00112233445566778899aabbccddeeff";
  record.boot_id = "6f1f3b1e-6a8a-4c53-9c3c-0d6c3a2f8a11";
  record.pid_namespace = 4026531836;
  record.time_namespace = 4026531834;
  record.witness = "ofd:2049:13107713";
  record.host = "build7";
  record.label = "nightly";
  record.session = "/srv/sessions/run.jsonl";
  return record;
}

}  // namespace

// Clang's thread sanitizer defines these itself and lets nobody replace them.
#if !SESSIONLOCK_THREAD_SANITIZER
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  try {
    return t_no_memory ? nullptr : ::operator new(size);
  } catch (...) {
    return nullptr;
  }
}
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  try {
    return t_no_memory ? nullptr : ::operator new[](size);
  } catch (...) {
    return nullptr;
  }
}
#endif

TEST_CASE("a record of another program is read") {
  const LockRecord record =
      parse_lock_record(R"({"pid":41237,"createdAt":"2026-11-20T03:31:48.712Z","starttime":98765,"maxHoldMs":1000})");
  LockRecord expected;
  expected.pid = 41237;
  expected.created_at = "2026-11-20T03:31:48.712Z";
  expected.starttime = 98765;
  expected.max_hold_ms = 1000;
  CHECK(record == expected);
}

TEST_CASE("a record is written with two-space indentation, fields in order, and one final newline") {
  CHECK(format_lock_record(full_record()) == R"({
  "pid": 41237,
  "createdAt": "2026-11-20T03:31:48.712Z",
  "starttime": 18446744073709551615,
  "maxHoldMs": 300000,
  "lockId": "00112233445566778899aabbccddeeff",
  "bootId": "6f1f3b1e-6a8a-4c53-9c3c-0d6c3a2f8a11",
  "pidNamespace": 4026531836,
  "timeNamespace": 4026531834,
  "witness": "ofd:2049:13107713",
  "host": "build7",
  "label": "nightly",
  "session": "/srv/sessions/run.jsonl"
}
)");
}

TEST_CASE("absent members are left out of the text") {
  LockRecord record;
  CHECK(format_lock_record(record) == "{}\n");
  record.starttime = 0;
  CHECK(format_lock_record(record) == "{\n  \"starttime\": 0\n}\n");
}

TEST_CASE("a record that is written reads back as the same record") {
  CHECK(parse_lock_record(format_lock_record(full_record())) == full_record());
  CHECK(parse_lock_record(format_lock_record(k_empty)) == k_empty);
  LockRecord record;
  record.label = "quote \" backslash \\ slash / newline \n tab \t return \r bell \a nul " + std::string(1, '\0') +
                 " del \x7f é € 🌙 \xe2\x80\xa8";
  record.host = "";
  record.session = "/srv/späte Läufe/a\nb.jsonl";
  record.max_hold_ms = std::numeric_limits<std::int64_t>::max();
  record.pid = std::numeric_limits<pid_t>::max();
  record.pid_namespace = 0;
  CHECK(parse_lock_record(format_lock_record(record)) == record);
}

TEST_CASE("control characters are written as JSON escapes") {
  LockRecord record;
  record.label = std::string{"\x01\n\t\x1f\"\\/"} + "\x7f";
  CHECK(format_lock_record(record) == "{\n  \"label\": \"\\u0001\\n\\t\\u001f\\\"\\\\/\x7f\"\n}\n");
}

TEST_CASE("what must be escaped or replaced is found wherever it stands in a text of any length") {
  // Protects: the steps of `is_plain`, which looks at eight bytes at a time.
  constexpr std::size_t k_length_max = 40;
  const std::vector<std::pair<std::string, std::string>> cases{
      {"\"", "\\\""},           {"\\", "\\\\"},           {"\x1f", "\\u001f"}, {std::string(1, '\0'), "\\u0000"},
      {"\x80", "\xef\xbf\xbd"}, {"\xff", "\xef\xbf\xbd"}, {"!", "!"}};
  for (const auto& [raw, written] : cases) {
    for (std::size_t length = 1; length <= k_length_max; ++length) {
      for (std::size_t at = 0; at < length; ++at) {
        LockRecord record;
        record.label = std::string(at, '~') + raw + std::string(length - at - 1, ' ');
        const std::string expected = std::string(at, '~') + written + std::string(length - at - 1, ' ');
        REQUIRE(format_lock_record(record) == "{\n  \"label\": \"" + expected + "\"\n}\n");
      }
    }
  }
}

TEST_CASE("text that is no UTF-8 is written with U+FFFD in place of the bad bytes") {
  LockRecord record;
  record.label =
      "a\xff"
      "b\xc3(\xe2\x82"
      "c\xed\xa0\x80\xc0\x80 é\xf0\x9f\x8c";
  const LockRecord read = parse_lock_record(format_lock_record(record));
  const std::string bad = "\xef\xbf\xbd";
  CHECK(read.label ==
        "a" + bad + "b" + bad + "(" + bad + bad + "c" + bad + bad + bad + bad + bad + " é" + bad + bad + bad);
}

TEST_CASE("a pid is a whole number from 1 to 2^31-1") {
  CHECK(pid_of("1") == 1);
  CHECK(pid_of("41237") == 41237);
  CHECK(pid_of("2147483647") == 2147483647);
  for (const char* value : {"0", "-1", "-0", "2147483648", "4294967297", "9223372036854775808", "18446744073709551616",
                            "18446744073709551617", "1.5", "123.5", "1e-1", "-1.0"}) {
    CAPTURE(value);
    CHECK_FALSE(pid_of(value));
  }
}

TEST_CASE("a number written as 123.0 or 1e3 is a whole number") {
  CHECK(pid_of("123.0") == 123);
  CHECK(pid_of("123.000e0") == 123);
  CHECK(pid_of("1e3") == 1000);
  CHECK(pid_of("1E+3") == 1000);
  CHECK(pid_of("1.5e1") == 15);
  CHECK(pid_of("1200e-2") == 12);
  CHECK(pid_of("0.0012e4") == 12);
  CHECK(with_field("starttime", "98765.0").starttime == 98765U);
  CHECK(with_field("maxHoldMs", "5e3").max_hold_ms == 5000);
  CHECK(with_field("pidNamespace", "4026531836.0").pid_namespace == 4026531836U);
}

TEST_CASE("NaN and infinity are no JSON, so that the pid is missing with everything else") {
  for (const char* value : {"NaN", "Infinity", "-Infinity", "inf", "nan"}) {
    CAPTURE(value);
    CHECK(parse_lock_record(std::string{"{\"host\": \"h\", \"pid\": "} + value + "}") == k_empty);
  }
}

TEST_CASE("a value of the wrong type drops its own field and no other") {
  const LockRecord whole = full_record();
  const struct {
    const char* name;
    bool is_text;
    void (*drop)(LockRecord&);
  } fields[] = {
      {"pid", false, [](LockRecord& r) { r.pid.reset(); }},
      {"createdAt", true, [](LockRecord& r) { r.created_at.reset(); }},
      {"starttime", false, [](LockRecord& r) { r.starttime.reset(); }},
      {"maxHoldMs", false, [](LockRecord& r) { r.max_hold_ms.reset(); }},
      {"lockId", true, [](LockRecord& r) { r.lock_id.reset(); }},
      {"bootId", true, [](LockRecord& r) { r.boot_id.reset(); }},
      {"pidNamespace", false, [](LockRecord& r) { r.pid_namespace.reset(); }},
      {"timeNamespace", false, [](LockRecord& r) { r.time_namespace.reset(); }},
      {"witness", true, [](LockRecord& r) { r.witness.reset(); }},
      {"host", true, [](LockRecord& r) { r.host.reset(); }},
      {"label", true, [](LockRecord& r) { r.label.reset(); }},
      {"session", true, [](LockRecord& r) { r.session.reset(); }},
  };
  const std::string text = format_lock_record(whole);
  const auto without_brace = text.substr(0, text.rfind('}'));
  for (const auto& field : fields) {
    LockRecord expected = whole;
    field.drop(expected);
    for (const char* value : {"null", "true", "false", "[]", "{}", "[1]", "[\"x\"]", R"({"pid": 1})", "-1.5", "1e400",
                              "-1e400", "12345678901234567890123", "\"\\ud800\""}) {
      CAPTURE(field.name);
      CAPTURE(value);
      // The field stands there twice: the malformed one counts, because it is the last.
      CHECK(parse_lock_record(without_brace + ", \"" + field.name + "\": " + value + "}") == expected);
    }
    CHECK(parse_lock_record(without_brace + ", \"" + field.name + "\": " + (field.is_text ? "7" : "\"7\"") + "}") ==
          expected);
  }
}

TEST_CASE("a start time is a whole number from 0 to 2^64-1, exact also beyond what a double can hold") {
  CHECK(with_field("starttime", "0").starttime == 0U);
  CHECK(with_field("starttime", "9007199254740993").starttime == 9007199254740993U);
  CHECK(with_field("starttime", "18446744073709551615").starttime == 18446744073709551615U);
  CHECK_FALSE(with_field("starttime", "18446744073709551616").starttime);
}

TEST_CASE("a start time with a fraction or an exponent counts up to 2^53 and only if it is exactly whole") {
  CHECK(with_field("starttime", "9007199254740992.0").starttime == 9007199254740992U);
  CHECK(with_field("starttime", "0.0").starttime == 0U);
  CHECK(with_field("starttime", "0e99999999999").starttime == 0U);
  for (const char* value :
       {"9007199254740993.0", "9007199254740994.0", "1e16", "1e400", "1e99999999999", "1e-400", "1e-99999999999",
        "4.99999999999999999999999", "123.00000000000000000000001", "0.1", "98765.4321e3"}) {
    CAPTURE(value);
    CHECK_FALSE(with_field("starttime", value).starttime);
  }
}

TEST_CASE("a malformed start time is as if absent") {
  for (const char* value : {"123.5", "-1", "\"123\"", "null", "true", "[1]", "{}", "1e400", "12345678901234567890123",
                            "-0", "-0.0", "\"\""}) {
    CAPTURE(value);
    CHECK_FALSE(with_field("starttime", value).starttime);
  }
}

TEST_CASE("a hold limit is a whole number above 0") {
  CHECK(with_field("maxHoldMs", "1").max_hold_ms == 1);
  CHECK(with_field("maxHoldMs", "9223372036854775807").max_hold_ms == 9223372036854775807);
  for (const char* value : {"0", "-1", "9223372036854775808", "1.5"}) {
    CAPTURE(value);
    CHECK_FALSE(with_field("maxHoldMs", value).max_hold_ms);
  }
}

TEST_CASE("namespaces are whole numbers from 0 to 2^64-1") {
  CHECK(with_field("pidNamespace", "18446744073709551615").pid_namespace == 18446744073709551615U);
  CHECK(with_field("timeNamespace", "0").time_namespace == 0U);
  CHECK_FALSE(with_field("pidNamespace", "-1").pid_namespace);
  CHECK_FALSE(with_field("timeNamespace", "18446744073709551616").time_namespace);
}

TEST_CASE("a lock id is exactly 32 hexadecimal digits") {
  CHECK(with_field("lockId", "\"0123456789abcdefABCDEF9876543210\"").lock_id == "0123456789abcdefABCDEF9876543210");
  for (const char* value : {"\"\"", "\"0123456789abcdef0123456789abcde\"", "\"0123456789abcdef0123456789abcdef0\"",
                            "\"0123456789abcdef0123456789abcdeg\"", "\"0123456789abcdef 123456789abcdef\""}) {
    CAPTURE(value);
    CHECK_FALSE(with_field("lockId", value).lock_id);
  }
}

TEST_CASE("a witness is ofd, a device and an inode in decimal") {
  CHECK(with_field("witness", "\"ofd:2049:13107713\"").witness == "ofd:2049:13107713");
  CHECK(with_field("witness", "\"ofd:0:18446744073709551615\"").witness == "ofd:0:18446744073709551615");
  for (const char* value :
       {"\"\"", "\"ofd\"", "\"ofd:\"", "\"ofd::\"", "\"ofd:1\"", "\"ofd:1:\"", "\"ofd::1\"", "\"ofd:1:2:3\"",
        "\"ofd:1:2 \"", "\" ofd:1:2\"", "\"OFD:1:2\"", "\"ofd:-1:2\"", "\"ofd:+1:2\"", "\"ofd:0x1:2\"",
        "\"ofd:1:18446744073709551616\"", "\"ofd;1:2\"", "\"flock:1:2\""}) {
    CAPTURE(value);
    CHECK_FALSE(with_field("witness", value).witness);
  }
}

TEST_CASE("a label is at most 1 KiB of UTF-8") {
  const std::string longest = repeated("é", 512);
  CHECK(with_field("label", "\"" + longest + "\"").label == longest);
  CHECK_FALSE(with_field("label", "\"" + longest + "x\"").label);
  CHECK(with_field("label", "\"" + repeated("\\u00e9", 512) + "\"").label == longest);
}

TEST_CASE("createdAt, bootId, host and session are any text") {
  CHECK(with_field("createdAt", "\"yesterday\"").created_at == "yesterday");
  CHECK(with_field("bootId", "\"b\"").boot_id == "b");
  CHECK(with_field("host", "\"\"").host == "");
  CHECK(with_field("session", "\"/srv/\\u00e4 \\\"x\\\".jsonl\"").session == "/srv/ä \"x\".jsonl");
}

TEST_CASE("escapes in text are undone") {
  CHECK(with_field("host", R"("\"\\\/\b\f\n\r\t\u00e9\ud83c\udf19\u0000")").host ==
        std::string{"\"\\/\b\f\n\r\té🌙"} + '\0');
}

TEST_CASE("half a surrogate pair costs its own field and no other") {
  for (const char* value : {R"("\ud800")", R"("\udc00")", R"("a\ud83cb")", R"("\ud83c\u0041")", R"("\udf19\ud83c")",
                            R"("\ud800\ud800")", R"("\ud83c\n")"}) {
    CAPTURE(value);
    CHECK_FALSE(with_field("label", value).label);
    CHECK(with_field("unknown", value).pid == 7);
    CHECK(with_field("unknown", std::string{"["} + value + "]").pid == 7);
  }
  CHECK(parse_lock_record(R"({"\ud800": 1, "pid": 7})").pid == 7);
}

TEST_CASE("of duplicate keys the last one counts") {
  CHECK(parse_lock_record(R"({"pid": 1, "pid": 2, "pid": 3})").pid == 3);
  CHECK(parse_lock_record(R"({"label": "a", "pid": 1, "label": "b"})").label == "b");
}

TEST_CASE("a malformed last duplicate makes the field absent") {
  CHECK_FALSE(parse_lock_record(R"({"pid": 1, "pid": "2"})").pid);
  CHECK_FALSE(parse_lock_record(R"({"pid": 1, "pid": null})").pid);
  CHECK_FALSE(parse_lock_record(R"({"pid": 1, "pid": 1e400})").pid);
  CHECK(parse_lock_record(R"({"pid": null, "pid": 1})").pid == 1);
}

TEST_CASE("a key is the same however it is escaped") {
  CHECK(parse_lock_record(R"({"p\u0069d": 7})").pid == 7);
  CHECK(parse_lock_record(R"({"\u0063reatedAt": "x"})").created_at == "x");
  CHECK(parse_lock_record(R"({"pid": 1, "\u0070\u0069\u0064": 2})").pid == 2);
  CHECK_FALSE(parse_lock_record(R"({"p\\u0069d": 7})").pid);
  CHECK_FALSE(parse_lock_record(R"({"p\"id": 7})").pid);
}

TEST_CASE("keys that only resemble a field are unknown") {
  for (const char* key : {"", "Pid", "PID", "pi", "pids", "pid ", "pid\\u0000", "created_at", "createdat"}) {
    CAPTURE(key);
    CHECK(parse_lock_record(std::string{"{\""} + key + "\": 7}") == k_empty);
  }
}

TEST_CASE("fields that are not known are ignored, whatever valid value they have") {
  CHECK(
      parse_lock_record(
          R"({"v": 2, "a": [1, -2.5e+10, "x", true, false, null, {"pid": 3, "b": [[], {}, ""]}], "pid": 7, "z": {}})") ==
      parse_lock_record(R"({"pid": 7})"));
}

TEST_CASE("numbers out of every range are valid where nothing needs them") {
  for (const char* value : {"1e400", "-1e400", "1e-400", "12345678901234567890123", "-12345678901234567890123",
                            "[1e400]", R"({"a": [{"b": 12345678901234567890123}]})"}) {
    CAPTURE(value);
    CHECK(parse_lock_record(std::string{"{\"x\": "} + value + ", \"pid\": 7}").pid == 7);
  }
}

TEST_CASE("text that is no JSON anywhere is an empty record, also inside values that are ignored") {
  for (const char* value : {"01",
                            "-01",
                            "00",
                            "1.",
                            ".5",
                            "+1",
                            "1e",
                            "1e+",
                            "-",
                            "--1",
                            "1_0",
                            "0x10",
                            "1a",
                            "tru",
                            "True",
                            "nul",
                            "nulll",
                            "falsy",
                            "NaN",
                            "'x'",
                            "x",
                            "[1,]",
                            "[,1]",
                            "[1 2]",
                            "[",
                            "]",
                            "[1}",
                            "{1}",
                            "{,}",
                            "[tru]",
                            "{\"a\"}",
                            "{\"a\":}",
                            "{\"a\":1,}",
                            "{\"a\" 1}",
                            "{a:1}",
                            "{\"a\":1]",
                            "",
                            "1 2",
                            ",",
                            ":",
                            "\"a",
                            "\"\\x\"",
                            "\"\\u12\"",
                            "\"\\u12g4\"",
                            "\"\\\"",
                            "\"\t\"",
                            "\"a\"b",
                            "[\"a\":1]",
                            "[\"a\":1],2]",
                            "[[[01]]]",
                            "{\"a\": {\"b\": [1.]}}",
                            "{\"\\x\": 1}",
                            "\"a\" \"b\"",
                            "/* c */ 1",
                            "1\f"}) {
    CAPTURE(value);
    CHECK(parse_lock_record(std::string{"{\"pid\": 7, \"x\": "} + value + ", \"host\": \"h\"}") == k_empty);
    CHECK(parse_lock_record(std::string{"{\"pid\": 7, \"x\": ["} + value + ",1]}") == k_empty);
    CHECK(parse_lock_record(std::string{"{\"pid\": "} + value + "}") == k_empty);
  }
}

TEST_CASE("a document that is not exactly one object is an empty record") {
  for (const char* text : {"",
                           " ",
                           "\n",
                           "null",
                           "true",
                           "7",
                           "\"pid\"",
                           "[]",
                           "[{\"pid\": 7}]",
                           "{\"pid\": 7} {}",
                           "{\"pid\": 7}{\"pid\": 8}",
                           "{\"pid\": 7}}",
                           "{\"pid\": 7}]",
                           "{\"pid\": 7},",
                           "{\"pid\": 7} x",
                           "{\"pid\": 7} \"x\"",
                           "{\"pid\": 7} \"}",
                           "[{\"pid\": 7}",
                           "x {\"pid\": 7}",
                           "{{\"pid\": 7}}",
                           "\"pid\": 7",
                           "{\"pid\" 7}",
                           "{\"pid\": 7, }",
                           "{, \"pid\": 7}",
                           "{\"pid\": 7 \"host\": \"h\"}",
                           "{pid: 7}",
                           "{7: 7}",
                           "{\"pid\": 7,, \"host\": \"h\"}"}) {
    CAPTURE(text);
    CHECK(parse_lock_record(text) == k_empty);
  }
}

TEST_CASE("white space around everything is allowed") {
  CHECK(parse_lock_record(" \t\r\n{ \n\"pid\"\t:\r7 , \"host\" : \"h\" }\n\n ").pid == 7);
}

TEST_CASE("a torn record is an empty record, wherever it was torn") {
  const std::string text = format_lock_record(full_record());
  // The final newline may be missing, as other programs write none.
  REQUIRE(parse_lock_record(text.substr(0, text.size() - 1)) == full_record());
  for (std::size_t length = 0; length + 1 < text.size(); ++length) {
    CAPTURE(length);
    CHECK(parse_lock_record(text.substr(0, length)) == k_empty);
  }
}

TEST_CASE("a torn record is not completed by the record that was read before it") {
  const std::string nested = R"({"pid": 7, "x": {"y": {}}})";
  for (int i = 0; i < 3; ++i) {
    CHECK(parse_lock_record(nested).pid == 7);
    CHECK(parse_lock_record(nested.substr(0, nested.size() - 1)) == k_empty);
  }
}

TEST_CASE("NUL bytes make an empty record") {
  CHECK(parse_lock_record(std::string(100, '\0')) == k_empty);
  const std::string good = R"({"pid": 7})";
  CHECK(parse_lock_record(good + std::string(1, '\0')) == k_empty);
  CHECK(parse_lock_record(std::string(1, '\0') + good) == k_empty);
  CHECK(parse_lock_record(std::string{"{\"pid\": 7, \"host\": \"a\0b\"}", 25}) == k_empty);
  CHECK(parse_lock_record(std::string{"{\"pid\": 7\0}", 11}) == k_empty);
}

TEST_CASE("text that is no UTF-8 is an empty record") {
  for (const char* bytes :
       {"\xff", "\xc3", "\xc3(", "\xe2\x82", "\xed\xa0\x80", "\xc0\x80", "\xf4\x90\x80\x80", "\x80"}) {
    CHECK(parse_lock_record(std::string{"{\"pid\": 7, \"host\": \""} + bytes + "\"}") == k_empty);
    CHECK(parse_lock_record(std::string{"{\"pid\": 7, \""} + bytes + "\": 1}") == k_empty);
  }
  CHECK(parse_lock_record("\xff\xfe{\0\"\0p\0") == k_empty);
}

TEST_CASE("a byte-order mark makes an empty record") {
  CHECK(parse_lock_record("\xef\xbb\xbf{\"pid\": 7}") == k_empty);
  CHECK(parse_lock_record("\xef\xbb\xbf") == k_empty);
}

TEST_CASE("64 KiB are read, and one byte more is an empty record") {
  std::string text = R"({"pid": 7})";
  text.resize(64 * 1024, ' ');
  CHECK(parse_lock_record(text).pid == 7);
  text += ' ';
  CHECK(parse_lock_record(text) == k_empty);
}

TEST_CASE("text of every length up to several kilobytes is read") {
  for (const std::size_t length : {10U, 63U, 64U, 65U, 2047U, 2048U, 2049U, 4096U, 10000U}) {
    std::string text = R"({"pid": 7)";
    text.resize(length - 1, ' ');
    text += '}';
    CAPTURE(length);
    CHECK(parse_lock_record(text).pid == 7);
    text.back() = ' ';
    CHECK(parse_lock_record(text) == k_empty);
  }
}

TEST_CASE("values nested as deeply as 64 KiB allow are judged to the bottom, also on a small stack") {
  const auto nested = [](const std::string& open, const std::string& bottom, const std::string& close,
                         std::size_t depth) {
    return "{\"x\":" + repeated(open, depth) + bottom + repeated(close, depth) + ",\"pid\":7}";
  };
  const auto check = [&] {
    for (const std::size_t depth : {10U, 1023U, 1024U, 1025U, 32'700U}) {
      CAPTURE(depth);
      CHECK(parse_lock_record(nested("[", "", "]", depth)).pid == 7);
      CHECK(parse_lock_record(nested("[", "tru", "]", depth)) == k_empty);
      CHECK(parse_lock_record(nested("[", "[", "]", depth)) == k_empty);
    }
    CHECK(parse_lock_record(nested("{\"a\":", "1e400", "}", 10'000)).pid == 7);
    CHECK(parse_lock_record(nested("{\"a\":", "01", "}", 10'000)) == k_empty);
    CHECK(parse_lock_record(nested("[{\"a\":", "0", "}]", 7'000)).pid == 7);
    CHECK(parse_lock_record(nested("[{\"a\":", "0", "]}", 7'000)) == k_empty);
    CHECK(parse_lock_record(std::string(64 * 1024, '[')) == k_empty);
    CHECK(parse_lock_record(repeated("{\"a\":", 10'000)) == k_empty);
  };
  pthread_attr_t attributes;
  REQUIRE(pthread_attr_init(&attributes) == 0);
  REQUIRE(pthread_attr_setstacksize(&attributes, 64 * 1024) == 0);
  pthread_t thread{};
  const auto run = [](void* body) -> void* {
    (*static_cast<decltype(check)*>(body))();
    return nullptr;
  };
  REQUIRE(pthread_create(&thread, &attributes, run, const_cast<void*>(static_cast<const void*>(&check))) == 0);
  REQUIRE(pthread_join(thread, nullptr) == 0);
  REQUIRE(pthread_attr_destroy(&attributes) == 0);
}

TEST_CASE("records are read while a thread is being torn down") {
  struct Late {
    std::optional<pid_t>* answer{};
    ~Late() { *answer = parse_lock_record(R"({"pid": 7})").pid; }
  };
  std::optional<pid_t> answer;
  std::thread{[&answer] {
    // Constructed before what the reader keeps for this thread, hence destroyed after it.
    thread_local Late late;
    late.answer = &answer;
    CHECK(parse_lock_record(R"({"pid": 6})").pid == 6);
  }}.join();
  CHECK(answer == 7);
}

#if !SESSIONLOCK_THREAD_SANITIZER
TEST_CASE("a lack of memory is no empty record") {
  if (sessionlock::test::is_under_valgrind()) {
    sessionlock::test::skip_aloud("valgrind has the allocator");
    return;
  }
  std::string text = R"({"pid": 7})";
  text.resize(5000, ' ');
  t_no_memory = true;
  CHECK_THROWS_AS(static_cast<void>(parse_lock_record(text)), std::bad_alloc);
  t_no_memory = false;
  CHECK(parse_lock_record(text).pid == 7);
}
#endif
