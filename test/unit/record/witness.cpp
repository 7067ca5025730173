#include "record/witness.hpp"

#include <cstdint>
#include <limits>

#include <doctest/doctest.h>

using namespace sessionlock;

namespace {

constexpr auto k_max = std::numeric_limits<std::uint64_t>::max();

}  // namespace

TEST_CASE("a witness is written with device and inode in decimal, up to their largest") {
  CHECK(format_witness({WitnessForm::ofd, {2049, 13107713}}) == "ofd:2049:13107713");
  CHECK(format_witness({WitnessForm::ofd2, {2049, 13107713}}) == "ofd2:2049:13107713");
  CHECK(format_witness({}) == "ofd:0:0");
  CHECK(format_witness({WitnessForm::ofd2, {k_max, k_max}}) == "ofd2:18446744073709551615:18446744073709551615");
}

TEST_CASE("what is written as a witness is read as the same") {
  for (const WitnessForm form : {WitnessForm::ofd, WitnessForm::ofd2}) {
    for (const FileIdentity& file : {FileIdentity{}, FileIdentity{2049, 13107713}, FileIdentity{k_max, k_max}}) {
      CHECK(parse_witness(format_witness({form, file})) == DeclaredWitness{form, file});
    }
  }
}

TEST_CASE("a witness that lacks a part, or has too much, is no witness") {
  for (const char* text : {"", "ofd:", "ofd2:", "ofd:1", "ofd2:1", "ofd:1:", "ofd::1", "ofd:1:2:3", "ofd:1:2 ",
                           " ofd:1:2", "ofd:-1:2", "ofd:1:-2", "ofd:1:18446744073709551616", "OFD:1:2", "flock:1:2",
                           "ofd1:1:2", "ofd3:1:2", "ofd22:1:2", "ofd2;1:2"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_witness(text));
  }
}
