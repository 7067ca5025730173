#include "text/printable_text.hpp"

#include <doctest/doctest.h>

using sessionlock::printable_text;
using sessionlock::quoted_text;
using sessionlock::revealing_text;

TEST_CASE("text without control characters is left as it is") {
  for (const char* text :
       {"", "/srv/a b/x.jsonl.lock", "späte Läufe — 夜间 🌙", "say \"x\" \\ y", "\xff\xfe not UTF-8"}) {
    CHECK(printable_text(text) == text);
  }
}

TEST_CASE("control characters become escapes, so that text stays on one line and cannot steer a terminal") {
  CHECK(printable_text("a\nb\tc\rd") == "a\\nb\\tc\\x0dd");
  CHECK(printable_text("\x1b[31mred\x7f") == "\\x1b[31mred\\x7f");
  CHECK(printable_text(std::string_view{"a\0b", 3}) == "a\\x00b");
  CHECK(printable_text("\xc2\x9b"
                       "31m") == "\\u009b31m");
  CHECK(printable_text("\xc2\xa0\xc2") == "\xc2\xa0\xc2");
}

TEST_CASE("characters that cannot be seen, and bytes that are none, are revealed by one escape each") {
  CHECK(revealing_text("\xef\xbb\xbf{\"a\":1}\xc2\xa0") == "\\ufeff{\"a\":1}\\u00a0");
  CHECK(revealing_text("\xe2\x80\x8b\xe2\x80\xae\xe3\x80\x80") == "\\u200b\\u202e\\u3000");
  CHECK(revealing_text("\xf3\xa0\x80\x81") == "\\U000e0001");
  CHECK(revealing_text("a\xff\xc3z\xe2\x82") == "a\\xff\\xc3z\\xe2\\x82");
  CHECK(revealing_text("\xed\xa0\x80\xc0\x80") == "\\xed\\xa0\\x80\\xc0\\x80");
  CHECK(revealing_text("\x1b[31m\t\xc2\x9b") == "\\x1b[31m\\t\\u009b");
}

TEST_CASE("text that can be seen is revealed as it is") {
  for (const char* text : {"", "späte Läufe — 夜间 🌙", "say \"x\" \\ y", "\\ufeff"}) {
    CHECK(revealing_text(text) == text);
  }
}

TEST_CASE("quoted text can be told from what stands around it") {
  CHECK(quoted_text("nightly") == "\"nightly\"");
  CHECK(quoted_text("a\" pid=1 \\") == "\"a\\\" pid=1 \\\\\"");
  CHECK(quoted_text("a\nb") == "\"a\\nb\"");
  CHECK(quoted_text("") == "\"\"");
}
