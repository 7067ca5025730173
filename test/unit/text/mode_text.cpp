#include "text/mode_text.hpp"

#include <string_view>

#include <doctest/doctest.h>

using namespace sessionlock;

TEST_CASE("a mode is written in octal and read back") {
  CHECK(format_mode(0) == "0000");
  CHECK(format_mode(0640) == "0640");
  CHECK(format_mode(04755) == "4755");
  for (mode_t mode = 0; mode <= 07777; ++mode) {
    REQUIRE(parse_mode(format_mode(mode)) == mode);
  }
  CHECK(parse_mode("640") == 0640U);
}

TEST_CASE("what is no octal number is no mode") {
  for (const std::string_view text :
       {"", " ", "-1", "+640", "0x1a0", "0o640", "648", "u+rw", "640 ", "rw-r-----", "12345670"}) {
    CAPTURE(text);
    CHECK(!parse_mode(text));
  }
}

TEST_CASE("a mode can be asked for if it lets the owner read and write, and has no bits but those of 0666") {
  for (mode_t mode = 0; mode <= 07777; ++mode) {
    CAPTURE(mode);
    const bool is_usable = mode_fault(mode).empty();
    REQUIRE(is_usable == ((mode | 066) == 0666));
    if (!is_usable) {
      REQUIRE(mode_fault(mode).find("mode " + format_mode(mode)) != std::string::npos);
    }
  }
}
