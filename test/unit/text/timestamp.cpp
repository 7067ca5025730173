#include "text/timestamp.hpp"

#include <doctest/doctest.h>

#include <limits>

using sessionlock::format_rfc3339;
using sessionlock::parse_rfc3339;
using sessionlock::WallTime;
using std::chrono::milliseconds;

namespace {

WallTime at(std::int64_t since_1970_ms) {
  return WallTime{milliseconds{since_1970_ms}};
}

// `date -u -d 2026-11-20T03:31:48.712Z +%s` says 1795145508.
constexpr std::int64_t k_example_ms = 1'795'145'508'712;

}  // namespace

TEST_CASE("a time in UTC with milliseconds is read") {
  CHECK(parse_rfc3339("2026-11-20T03:31:48.712Z") == at(k_example_ms));
  CHECK(parse_rfc3339("1970-01-01T00:00:00.000Z") == at(0));
}

TEST_CASE("T and Z may be small letters") {
  CHECK(parse_rfc3339("2026-11-20t03:31:48.712z") == at(k_example_ms));
}

TEST_CASE("any offset is read, and means how far local time is ahead of UTC") {
  CHECK(parse_rfc3339("2026-11-20T09:01:48.712+05:30") == at(k_example_ms));
  CHECK(parse_rfc3339("2026-11-19T18:31:48.712-09:00") == at(k_example_ms));
  CHECK(parse_rfc3339("2026-11-20T03:31:48.712-00:00") == at(k_example_ms));
  CHECK(parse_rfc3339("2026-11-21T03:30:48.712+23:59") == at(k_example_ms));
}

TEST_CASE("any number of fraction digits is read and cut to milliseconds") {
  CHECK(parse_rfc3339("2026-11-20T03:31:48Z") == at(k_example_ms - 712));
  CHECK(parse_rfc3339("2026-11-20T03:31:48.7Z") == at(k_example_ms - 12));
  CHECK(parse_rfc3339("2026-11-20T03:31:48.71Z") == at(k_example_ms - 2));
  CHECK(parse_rfc3339("2026-11-20T03:31:48.7129999999999999999999Z") == at(k_example_ms));
}

TEST_CASE("a leap second is the last second of its minute") {
  CHECK(parse_rfc3339("2016-12-31T23:59:60Z") == parse_rfc3339("2016-12-31T23:59:59Z"));
  CHECK(parse_rfc3339("2017-01-01T00:59:60.5+01:00") == parse_rfc3339("2016-12-31T23:59:59.5Z"));
}

TEST_CASE("every day of the calendar is read, and no other") {
  CHECK(parse_rfc3339("2024-02-29T00:00:00Z"));
  CHECK(parse_rfc3339("2000-02-29T00:00:00Z"));
  CHECK_FALSE(parse_rfc3339("1900-02-29T00:00:00Z"));
  CHECK_FALSE(parse_rfc3339("2026-02-29T00:00:00Z"));
  CHECK_FALSE(parse_rfc3339("2026-04-31T00:00:00Z"));
  CHECK_FALSE(parse_rfc3339("2026-00-10T00:00:00Z"));
  CHECK_FALSE(parse_rfc3339("2026-13-10T00:00:00Z"));
  CHECK_FALSE(parse_rfc3339("2026-01-00T00:00:00Z"));
  CHECK_FALSE(parse_rfc3339("2026-01-32T00:00:00Z"));
}

TEST_CASE("the first and the last year that four digits can name are read") {
  CHECK(parse_rfc3339("0000-01-01T00:00:00Z") == at(-62'167'219'200'000));
  CHECK(parse_rfc3339("9999-12-31T23:59:59.999Z") == at(253'402'300'799'999));
}

TEST_CASE("anything but RFC 3339 is no time") {
  for (const char* text : {"",
                           " ",
                           "2026",
                           "2026-11-20",
                           "2026-11-20T03:31Z",
                           "2026-11-20T03:31:48",
                           "2026-11-20T03:31:48.Z",
                           "2026-11-20T03:31:48,712Z",
                           "2026-11-20 03:31:48Z",
                           " 2026-11-20T03:31:48Z",
                           "2026-11-20T03:31:48Z ",
                           "2026-11-20T03:31:48ZZ",
                           "2026-11-20T24:00:00Z",
                           "2026-11-20T03:60:00Z",
                           "2026-11-20T03:31:61Z",
                           "2026-11-20T03:31:48+0100",
                           "2026-11-20T03:31:48+01",
                           "2026-11-20T03:31:48+24:00",
                           "2026-11-20T03:31:48+01:60",
                           "2026-11-20T03:31:48+01:00Z",
                           "26-11-20T03:31:48Z",
                           "+2026-11-20T03:31:48Z",
                           "02026-11-20T03:31:48Z",
                           "2026-1-20T03:31:48Z",
                           "2026-11-20T3:31:48Z",
                           "2026/11/20T03:31:48Z",
                           "2026-11-20T03.31.48Z",
                           "2026-11-20T-3:31:48Z",
                           "1795145508712",
                           "yesterday"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_rfc3339(text));
  }
  CHECK_FALSE(parse_rfc3339(std::string_view{"2026-11-20T03:31:48Z\0", 21}));
}

TEST_CASE("every beginning of a time is no time") {
  constexpr std::string_view whole = "2026-11-20T03:31:48.712+05:30";
  REQUIRE(parse_rfc3339(whole));
  for (std::size_t length = 0; length < whole.size(); ++length) {
    CAPTURE(length);
    CHECK_FALSE(parse_rfc3339(whole.substr(0, length)));
  }
}

TEST_CASE("a time that lies ahead has no age") {
  CHECK(sessionlock::age_of(at(1000), at(3500)) == std::chrono::milliseconds{2500});
  CHECK(sessionlock::age_of(at(1000), at(1000)) == std::chrono::milliseconds{0});
  CHECK(sessionlock::age_of(at(3500), at(1000)) == std::chrono::milliseconds{0});
  CHECK(sessionlock::age_of(WallTime::min(), WallTime::max()) == std::chrono::milliseconds::max());
  CHECK(sessionlock::age_of(WallTime::max(), WallTime::min()) == std::chrono::milliseconds{0});
}

TEST_CASE("a time is written in UTC with milliseconds") {
  CHECK(format_rfc3339(at(k_example_ms)) == "2026-11-20T03:31:48.712Z");
  CHECK(format_rfc3339(at(0)) == "1970-01-01T00:00:00.000Z");
  CHECK(format_rfc3339(at(-1)) == "1969-12-31T23:59:59.999Z");
}

TEST_CASE("a time that is written reads back as the same time") {
  for (const std::int64_t ms : {k_example_ms, std::int64_t{0}, std::int64_t{-1}, std::int64_t{-62'167'219'200'000},
                                std::int64_t{253'402'300'799'999}, std::int64_t{951'782'400'001}}) {
    CAPTURE(ms);
    CHECK(parse_rfc3339(format_rfc3339(at(ms))) == at(ms));
  }
}

TEST_CASE("a clock beyond four-digit years is written as the nearest time that can be read") {
  CHECK(format_rfc3339(at(std::numeric_limits<std::int64_t>::max())) == "9999-12-31T23:59:59.999Z");
  CHECK(format_rfc3339(at(std::numeric_limits<std::int64_t>::min())) == "0000-01-01T00:00:00.000Z");
}
