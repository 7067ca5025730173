#include "text/duration_text.hpp"

#include <doctest/doctest.h>

#include <cstdint>

using sessionlock::format_age;
using sessionlock::format_limit;
using sessionlock::parse_duration;
using std::chrono::milliseconds;

TEST_CASE("an age below a second is told in milliseconds") {
  CHECK(format_age(milliseconds{0}) == "0ms");
  CHECK(format_age(milliseconds{950}) == "950ms");
  CHECK(format_age(milliseconds{999}) == "999ms");
}

TEST_CASE("an age is cut to its two largest units") {
  CHECK(format_age(milliseconds{1000}) == "1s");
  CHECK(format_age(milliseconds{12'999}) == "12s");
  CHECK(format_age(milliseconds{59'999}) == "59s");
  CHECK(format_age(milliseconds{60'000}) == "1m");
  CHECK(format_age(milliseconds{190'000}) == "3m10s");
  CHECK(format_age(milliseconds{3'600'000}) == "1h");
  CHECK(format_age(milliseconds{3'600'000 + 59'000}) == "1h");
  CHECK(format_age(milliseconds{7'500'000}) == "2h5m");
  CHECK(format_age(milliseconds{86'399'999}) == "23h59m");
  CHECK(format_age(milliseconds{4 * 86'400'000 + 7 * 3'600'000 + 59'000}) == "4d7h");
  CHECK(format_age(milliseconds::max()) == "106751991167d7h");
}

TEST_CASE("an age below zero reads as zero") {
  CHECK(format_age(milliseconds{-5}) == "0ms");
  CHECK(format_age(milliseconds::min()) == "0ms");
}

TEST_CASE("a limit is told exactly, in the largest unit that divides it") {
  CHECK(format_limit(milliseconds{0}) == "0ms");
  CHECK(format_limit(milliseconds{500}) == "500ms");
  CHECK(format_limit(milliseconds{1500}) == "1500ms");
  CHECK(format_limit(milliseconds{10'000}) == "10s");
  CHECK(format_limit(milliseconds{60'000}) == "1m");
  CHECK(format_limit(milliseconds{90'000}) == "90s");
  CHECK(format_limit(milliseconds{48 * 3'600'000}) == "48h");
  CHECK(format_limit(milliseconds::max()) == "inf");
  CHECK(format_limit(milliseconds{-5}) == "0ms");
}

TEST_CASE("a limit that is told reads back as the same limit") {
  for (const std::int64_t count : {std::int64_t{0}, std::int64_t{1}, std::int64_t{999}, std::int64_t{1000},
                                   std::int64_t{61'000}, std::int64_t{7'200'000}, std::int64_t{86'400'000},
                                   milliseconds::max().count() - 1, milliseconds::max().count()}) {
    CAPTURE(count);
    CHECK(parse_duration(format_limit(milliseconds{count})) == milliseconds{count});
  }
}

TEST_CASE("a duration is read with each of its units") {
  CHECK(parse_duration("500ms") == milliseconds{500});
  CHECK(parse_duration("10s") == milliseconds{10'000});
  CHECK(parse_duration("5m") == milliseconds{300'000});
  CHECK(parse_duration("1h") == milliseconds{3'600'000});
  CHECK(parse_duration("0s") == milliseconds{0});
  CHECK(parse_duration("007s") == milliseconds{7000});
}

TEST_CASE("a number without a unit is refused, except zero") {
  CHECK(parse_duration("0") == milliseconds{0});
  CHECK(parse_duration("00") == milliseconds{0});
  CHECK_FALSE(parse_duration("5"));
  CHECK_FALSE(parse_duration("1234"));
}

TEST_CASE("inf is the longest duration") {
  CHECK(parse_duration("inf") == milliseconds::max());
}

TEST_CASE("a duration that 64 bits of milliseconds cannot hold is refused") {
  CHECK(parse_duration("9223372036854775807ms") == milliseconds::max());
  CHECK_FALSE(parse_duration("9223372036854775808ms"));
  CHECK_FALSE(parse_duration("18446744073709551616ms"));
  CHECK(parse_duration("9223372036854775s") == milliseconds{9'223'372'036'854'775'000});
  CHECK_FALSE(parse_duration("9223372036854776s"));
  CHECK_FALSE(parse_duration("153722867280913m"));
  CHECK_FALSE(parse_duration("2562047788016h"));
  CHECK_FALSE(parse_duration("99999999999999999999999h"));
}

TEST_CASE("anything else is no duration") {
  for (const char* text :
       {"",   "ms", "s",     "-1",   "-5s",  "+5s", "1.5s", "1,5s",     " 5s",  "5s ",  "5 s", "5S",
        "5d", "5M", "5ms5s", "1h5m", "0x10", "1e3", "INF",  "infinity", "five", "5sec", "5µs", "5s\n"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_duration(text));
  }
}
