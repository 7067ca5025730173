#include "text/json_grammar.hpp"

#include <string>
#include <string_view>

#include <doctest/doctest.h>

using namespace sessionlock;
using namespace std::string_view_literals;

TEST_CASE("exactly one value of any kind is JSON") {
  for (const auto text : {"{}",
                          "[]",
                          "null",
                          "true",
                          "false",
                          "0",
                          "-0",
                          "12",
                          "1e400",
                          "-1.5E-7",
                          "123456789012345678901234567890",
                          R"("")",
                          R"("text")",
                          R"({"a":1})",
                          R"({"a":{"b":[1,2,{"c":null}]},"d":[]})",
                          R"([[],[[]],{}])",
                          R"({"":0})",
                          R"({"a":1,"a":2})",
                          R"("\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00")",
                          R"("\ud800")",
                          "\"\u00e9\u20ac\U0001f600\"",
                          " \t\r\n{ \"a\" : [ 1 , 2 ] } \r\n",
                          "\"\x7f\"",
                          R"(["a]b","{","}"])"}) {
    CAPTURE(text);
    CHECK(is_json_value(text));
  }
}

TEST_CASE("anything else is not JSON") {
  for (const auto text : {""sv,
                          " "sv,
                          "{"sv,
                          "}"sv,
                          "["sv,
                          "]"sv,
                          "[}"sv,
                          "{]"sv,
                          "[{]}"sv,
                          "{}{}"sv,
                          "{} 1"sv,
                          "1 2"sv,
                          "1,2"sv,
                          ","sv,
                          "[1,]"sv,
                          "[,1]"sv,
                          "[1 2]"sv,
                          "[1,,2]"sv,
                          R"({"a"})"sv,
                          R"({"a":})"sv,
                          R"({"a":1,})"sv,
                          R"({,"a":1})"sv,
                          R"({"a" 1})"sv,
                          R"({a:1})"sv,
                          R"({1:1})"sv,
                          R"({"a":1 "b":2})"sv,
                          R"({"a":1]"sv, R"(["a":1])"sv,
                          "nul"sv,
                          "nulll"sv,
                          "True"sv,
                          "NaN"sv,
                          "Infinity"sv,
                          "01"sv,
                          "-"sv,
                          "+1"sv,
                          "1."sv,
                          ".5"sv,
                          "1e"sv,
                          "1e+"sv,
                          "0x1"sv,
                          "--1"sv,
                          R"(")"sv,
                          R"("a)"sv,
                          R"("a\")"sv,
                          R"("\x")"sv,
                          R"("\u12")"sv,
                          R"("\u12g4")"sv,
                          "\"\t\""sv,
                          "\"a\nb\""sv,
                          "\"\\\n\""sv,
                          "'a'"sv,
                          "\"a\0b\""sv,
                          "\0"sv,
                          "{}\0"sv,
                          "\"\xff\""sv,
                          "\"\xc3\""sv,
                          "\"\xed\xa0\x80\""sv,
                          "\xef\xbb\xbf{}"sv,
                          "// no\n{}"sv,
                          "\f{}"sv,
                          R"([1:2])"sv,
                          R"({"a"::1})"sv,
                          R"("a""b")"sv,
                          R"({"a":1}})"sv,
                          R"([1]])"sv,
                          "1]"sv,
                          "1}"sv}) {
    CAPTURE(text);
    CHECK_FALSE(is_json_value(text));
  }
}

TEST_CASE("an escape that ends with the text, or escapes a null character, is none") {
  CHECK(json_escapes_are_valid(R"(a\\b\u00e9)"));
  CHECK_FALSE(json_escapes_are_valid("a\\"));
  CHECK_FALSE(json_escapes_are_valid("a\\\0"sv));
  CHECK_FALSE(json_escapes_are_valid("a\\\0b"sv));
}

TEST_CASE("no prefix of a value other than a number is JSON") {
  const std::string text = R"({"k":[1,2.5e3,{"x":"a\u00e9\"b"},[],{}],"l":true,"m":null})";
  REQUIRE(is_json_value(text));
  for (std::size_t size = 0; size < text.size(); ++size) {
    CAPTURE(text.substr(0, size));
    CHECK_FALSE(is_json_value(std::string_view(text).substr(0, size)));
  }
}

TEST_CASE("nesting costs nothing of the stack") {
  constexpr std::size_t depth = 4'000'000;
  const std::string open(depth, '[');
  CHECK(is_json_value(open + std::string(depth, ']')));
  CHECK_FALSE(is_json_value(open + std::string(depth - 1, ']')));
  CHECK_FALSE(is_json_value(open + std::string(depth + 1, ']')));
  CHECK_FALSE(is_json_value(open));
}

TEST_CASE("a whole value at the beginning of a text ends where it ends, whatever follows") {
  struct Case {
    std::string_view value{};
    std::string_view rest{};
  };
  for (const Case& one : {Case{"{}", ""}, Case{"{\"a\":[1,{}]}", "}"}, Case{" {}", " "}, Case{"[]", "x"},
                          Case{"{}", "{\"b"}, Case{"\"a\"", "\xff"}, Case{"null", " story"}, Case{"12", ",3"},
                          Case{"true", "]"}, Case{"[\"}\"]", "\0"sv}, Case{"\"\xc3\xa4\"", "\"\xc3"}}) {
    CAPTURE(one.value);
    CAPTURE(one.rest);
    CHECK(end_of_json_value(std::string(one.value) + std::string(one.rest)) == one.value.size());
  }
}

TEST_CASE("a text that begins with no whole value has no end of one") {
  for (const auto text : {""sv, "  "sv, "{"sv, "{\"a\":1"sv, "[1,2"sv, "\"a"sv, "nul"sv, "nullx"sv, "12x"sv, "]"sv,
                          ",{}"sv, "x{}"sv, "\0{}"sv, "\"\xff\""sv, "{\"a\" 1}"sv, "\"\\q\""sv, "\xef\xbb\xbf{}"sv}) {
    CAPTURE(text);
    CHECK_FALSE(end_of_json_value(text).has_value());
  }
}
