#include "text/utf8.hpp"

#include <string_view>

#include <doctest/doctest.h>

using namespace std::string_view_literals;
using sessionlock::is_utf8;

TEST_CASE("characters of one to four bytes are UTF-8, and so is a NUL") {
  for (const auto text : {""sv, "plain"sv, "a\0b"sv, "späte Läufe"sv, "夜間"sv, "🌙"sv, "\xf4\x8f\xbf\xbf"sv}) {
    CAPTURE(text);
    CHECK(is_utf8(text));
  }
}

TEST_CASE("what is cut off, overlong, a surrogate or beyond the last character is no UTF-8") {
  for (const auto text : {"\xff"sv, "\x80"sv, "a\xc3"sv, "\xe5\xa4"sv, "\xc0\x80"sv, "\xe0\x80\xaf"sv, "\xed\xa0\x80"sv,
                          "\xf4\x90\x80\x80"sv, "a\0\xff"sv}) {
    CAPTURE(text);
    CHECK_FALSE(is_utf8(text));
  }
}
