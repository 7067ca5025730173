#include "record/witness.hpp"

#include <cstdint>
#include <limits>

#include <doctest/doctest.h>

using namespace sessionlock;

TEST_CASE("a witness is written with device and inode in decimal, up to their largest") {
  constexpr auto max = std::numeric_limits<std::uint64_t>::max();
  CHECK(format_witness({2049, 13107713}) == "ofd:2049:13107713");
  CHECK(format_witness({}) == "ofd:0:0");
  CHECK(format_witness({max, max}) == "ofd:18446744073709551615:18446744073709551615");
}

TEST_CASE("what is written as a witness is read as one") {
  constexpr auto max = std::numeric_limits<std::uint64_t>::max();
  for (const FileIdentity& file : {FileIdentity{}, FileIdentity{2049, 13107713}, FileIdentity{max, max}}) {
    CHECK(is_witness(format_witness(file)));
  }
}

TEST_CASE("a witness that lacks a part, or has too much, is no witness") {
  for (const char* text : {"", "ofd:", "ofd:1", "ofd:1:", "ofd::1", "ofd:1:2:3", "ofd:1:2 ", " ofd:1:2", "ofd:-1:2",
                           "ofd:1:18446744073709551616", "OFD:1:2", "flock:1:2"}) {
    CAPTURE(text);
    CHECK_FALSE(is_witness(text));
  }
}
