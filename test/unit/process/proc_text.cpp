#include "process/proc_text.hpp"

#include <limits>
#include <string>
#include <string_view>

#include <doctest/doctest.h>

using namespace sessionlock;
using namespace std::string_view_literals;

namespace {

/// Fields 3 to 52 of a sleeping process with one thread that started at 98765.
constexpr auto k_fields =
    " S 4211 41237 41237 34816 41237 4194304 1234 5678 0 1 12 34 5 6 20 0 1 0 98765 230301696 4096 "
    "18446744073709551615 94367344635904 94367344660009 140726037475312 0 0 0 0 4096 134234626 1 0 0 17 3 0 0 0 0 0 "
    "94367344675856 94367344677472 94367490744320 140726037481916 140726037481944 140726037481944 140726037483498 0\n"sv;

std::string stat_line(std::string_view name) {
  return "41237 (" + std::string(name) + ")" + std::string(k_fields);
}

std::string with_field(int number, std::string_view text) {
  std::string line = stat_line("sh");
  std::size_t begin = 0;
  for (int i = 1; i < number; ++i) {
    begin = line.find(' ', begin) + 1;
  }
  return line.replace(begin, line.find(' ', begin) - begin, text);
}

}  // namespace

TEST_CASE("98765 is the start time of a realistic stat line") {
  const auto stat = parse_proc_stat(stat_line("node"));
  REQUIRE(stat);
  CHECK(stat->start_time_ticks == 98765);
  CHECK(stat->state == 'S');
  CHECK(stat->threads == 1);
}

TEST_CASE("a command name may hold spaces, parentheses and what looks like fields") {
  for (const auto name : {"My App (v2)"sv, "a) R 1 2 (b"sv, ")"sv, "("sv, ""sv,
                          ") Z 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 0 5"sv, "two\nlines"sv, "Web Content"sv}) {
    CAPTURE(name);
    const auto stat = parse_proc_stat(stat_line(name));
    REQUIRE(stat);
    CHECK(stat->start_time_ticks == 98765);
    CHECK(stat->state == 'S');
  }
}

TEST_CASE("a stat line that is truncated anywhere before the end of field 22 gives none") {
  const std::string line = stat_line("a) b");
  const auto end = line.find(" 98765 ") + " 98765"sv.size();
  for (std::size_t length = 0; length <= end; ++length) {
    CAPTURE(length);
    CHECK_FALSE(parse_proc_stat(std::string_view(line).substr(0, length)));
  }
  CHECK(parse_proc_stat(std::string_view(line).substr(0, end + 1)));
}

TEST_CASE("a malformed stat line gives none") {
  CHECK_FALSE(parse_proc_stat("no parenthesis at all"));
  CHECK_FALSE(parse_proc_stat(with_field(22, "-1")));
  CHECK_FALSE(parse_proc_stat(with_field(22, "123.5")));
  CHECK_FALSE(parse_proc_stat(with_field(22, "18446744073709551616")));
  CHECK_FALSE(parse_proc_stat(with_field(22, "0x10")));
  CHECK_FALSE(parse_proc_stat(with_field(22, "")));
  CHECK_FALSE(parse_proc_stat(with_field(20, "many")));
  CHECK_FALSE(parse_proc_stat(with_field(20, "-1")));
  CHECK_FALSE(parse_proc_stat(with_field(3, "7")));
  CHECK_FALSE(parse_proc_stat(with_field(3, "SS")));
  CHECK_FALSE(parse_proc_stat(with_field(9, "")));
}

TEST_CASE("start times up to 2^64-1 keep every digit") {
  const auto largest = parse_proc_stat(with_field(22, "18446744073709551615"));
  REQUIRE(largest);
  CHECK(largest->start_time_ticks == std::numeric_limits<std::uint64_t>::max());
  const auto beyond_double = parse_proc_stat(with_field(22, "9007199254740993"));
  REQUIRE(beyond_double);
  CHECK(beyond_double->start_time_ticks == 9007199254740993U);
}

TEST_CASE("state and thread count of a zombie are read") {
  std::string line = with_field(3, "Z");
  auto stat = parse_proc_stat(line);
  REQUIRE(stat);
  CHECK(stat->state == 'Z');
  CHECK(parse_proc_stat(with_field(20, "7"))->threads == 7);
}

TEST_CASE("a status with one NSpid is of our own PID namespace, with two it is not") {
  CHECK(status_is_of_own_namespace("Name:\tcat\nTgid:\t500\nNSpid:\t500\nNSpgid:\t500\n"));
  CHECK_FALSE(status_is_of_own_namespace("Name:\tcat\nTgid:\t500\nNSpid:\t500\t500\nNSpgid:\t500\t500\n"));
  CHECK_FALSE(status_is_of_own_namespace("Name:\tcat\nNSpid:\t\n"));
  CHECK(status_is_of_own_namespace("Name:\tcat\nTgid:\t500\n"));
  CHECK_FALSE(status_is_of_own_namespace("Name:\tNSpid: 1\nNSpid:\t500\t1\n"));
}

TEST_CASE("btime is found behind long lines") {
  const std::string stat =
      "cpu  1 2 3\nintr " + std::string(100'000, '0') + "\nctxt 5\nbtime 1795150092\nprocesses 9\n";
  CHECK(parse_btime(stat) == 1795150092);
}

TEST_CASE("a btime that is missing, cut or no number is none") {
  CHECK_FALSE(parse_btime(""));
  CHECK_FALSE(parse_btime("cpu 1 2\nctxt 5\n"));
  CHECK_FALSE(parse_btime("ctxt 5\nbtime 17951"));
  CHECK_FALSE(parse_btime("btime \n"));
  CHECK_FALSE(parse_btime("btime soon\n"));
  CHECK_FALSE(parse_btime("btime 1 2\n"));
  CHECK_FALSE(parse_btime("intr btime 5\n"));
}

TEST_CASE("time namespace offsets are zero only if every number is") {
  CHECK(timens_offsets_are_zero("monotonic           0         0\nboottime            0         0\n"));
  CHECK_FALSE(timens_offsets_are_zero("monotonic           0         0\nboottime         1000         0\n"));
  CHECK_FALSE(timens_offsets_are_zero("monotonic           0         5\nboottime            0         0\n"));
  CHECK_FALSE(timens_offsets_are_zero("monotonic          -1         0\nboottime            0         0\n"));
  CHECK_FALSE(timens_offsets_are_zero("monotonic 0\n"));
  CHECK_FALSE(timens_offsets_are_zero(""));
}

TEST_CASE("the flock holder of exactly this inode is found") {
  constexpr auto locks =
      "1: POSIX  ADVISORY  WRITE 77 fe:00:12345 0 EOF\n"
      "2: FLOCK  ADVISORY  WRITE 100 fe:00:1234 0 EOF\n"
      "3: FLOCK  ADVISORY  WRITE 101 fe:01:12345 0 EOF\n"
      "4: FLOCK  ADVISORY  WRITE 102 08:00:12345 0 EOF\n"
      "5: OFDLCK ADVISORY  WRITE -1 fe:00:12345 0 EOF\n"
      "6: FLOCK  ADVISORY  WRITE 1234 fe:00:12345 0 EOF\n"
      "6: -> FLOCK  ADVISORY  WRITE 1235 fe:00:12345 0 EOF\n"sv;
  CHECK(parse_flock_holder(locks, 0xfe, 0, 12345) == 1234);
  CHECK(parse_flock_holder(locks, 0xfe, 1, 12345) == 101);
  CHECK(parse_flock_holder(locks, 8, 0, 12345) == 102);
  CHECK(parse_flock_holder(locks, 0xfe, 0, 1234) == 100);
  CHECK_FALSE(parse_flock_holder(locks, 0xfe, 0, 123));
  CHECK_FALSE(parse_flock_holder("", 0xfe, 0, 12345));
  CHECK(parse_flocks(locks, 12345) == std::vector<ListedFlock>{{101, 0xfe, 1}, {102, 8, 0}, {1234, 0xfe, 0}});
  CHECK(parse_flocks(locks, 123).empty());
}

TEST_CASE("the descriptor that a flock was taken through lists it") {
  const std::string begin = "pos:\t0\nflags:\t0100002\nmnt_id:\t29\nino:\t257\n";
  CHECK(has_flock_line(begin + "lock:\t1: FLOCK  ADVISORY  WRITE 9 00:1f:257 0 EOF\n", 0, 0x1f, 257));
  CHECK(has_flock_line(begin + "lock:\t1: OFDLCK ADVISORY  WRITE -1 00:1f:257 0 EOF\n"
                               "lock:\t2: FLOCK  ADVISORY  READ  9 00:1f:257 0 EOF\n",
                       0, 0x1f, 257));
  for (const char* not_it :
       {"lock:\t1: FLOCK  ADVISORY  WRITE 9 00:1f:258 0 EOF\n", "lock:\t1: FLOCK  ADVISORY  WRITE 9 00:1e:257 0 EOF\n",
        "lock:\t1: OFDLCK ADVISORY  WRITE -1 00:1f:257 0 EOF\n", "1: FLOCK  ADVISORY  WRITE 9 00:1f:257 0 EOF\n",
        "lock:\n", ""}) {
    CAPTURE(not_it);
    CHECK_FALSE(has_flock_line(begin + not_it, 0, 0x1f, 257));
  }
}

TEST_CASE("the type of a file system is found by its device in the list of mounts") {
  const std::string mounts =
      "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
      "23 22 0:35 /a\\040b /mnt/a\\040-\\040b rw,noatime shared:1 master:2 - btrfs /dev/loop0 rw,space_cache\n"
      "24 22 0:36 / /cut rw\n";
  CHECK(mounted_type(mounts, 0, 35) == "btrfs");
  CHECK(mounted_type(mounts, 254, 0) == "ext4");
  CHECK(mounted_type(mounts, 0, 36).empty());
  CHECK(mounted_type(mounts, 0, 3).empty());
  CHECK(mounted_type("", 0, 35).empty());
}

TEST_CASE("where only a waiter can be seen, the waiter is told") {
  CHECK(parse_flock_holder("1: -> FLOCK  ADVISORY  WRITE 9 00:1f:7 0 EOF\n", 0, 0x1f, 7) == 9);
  CHECK(parse_flock_holder("1: -> FLOCK  ADVISORY  WRITE 9 00:1f:7 0 EOF\n"
                           "1:  -> FLOCK  ADVISORY  WRITE 10 00:1f:7 0 EOF\n"
                           "2: FLOCK  ADVISORY  WRITE 8 00:1f:7 0 EOF\n",
                           0, 0x1f, 7) == 8);
}

TEST_CASE("lock lines that are cut, malformed or without a visible pid tell nobody") {
  CHECK_FALSE(parse_flock_holder("1: FLOCK  ADVISORY  WRITE 9 00:1f:7", 0, 0x1f, 7));
  CHECK_FALSE(parse_flock_holder("1: FLOCK  ADVISORY  WRITE 9 00:1f:7 ", 0, 0x1f, 7));
  CHECK_FALSE(parse_flock_holder("1: FLOCK  ADVISORY  WRITE 0 00:1f:7 0 EOF\n", 0, 0x1f, 7));
  CHECK_FALSE(parse_flock_holder("1: FLOCK  ADVISORY  WRITE -1 00:1f:7 0 EOF\n", 0, 0x1f, 7));
  CHECK_FALSE(parse_flock_holder("1: FLOCK  ADVISORY  WRITE 99999999999 00:1f:7 0 EOF\n", 0, 0x1f, 7));
  CHECK_FALSE(parse_flock_holder("\n:\n1:\n1: ->\n1: FLOCK\n1: FLOCK ADVISORY WRITE 9 00:1f 0 EOF\n", 0, 0x1f, 7));
}

TEST_CASE("a write lock on one byte of an inode is found in the list of locks, whatever its device and process") {
  const std::string byte = "1099511627776";
  const auto listed = [](const std::string& text) { return lists_ofd_write_lock(text, 13, 1ULL << 40U); };
  const auto line = [&](const std::string& kind, const std::string& access, const std::string& file,
                        const std::string& range) {
    return "1: " + kind + " ADVISORY  " + access + " -1 " + file + " " + range + "\n";
  };
  const std::string other =
      "7: FLOCK  ADVISORY  WRITE 26462 fe:00:13 0 EOF\n8: POSIX  ADVISORY  WRITE 5 fe:00:13 0 EOF\n"
      "9: LEASE  ACTIVE    READ  77 fe:00:14 0 EOF\n10: OFDLCK ADVISORY  READ  -1 <none>:0 0 EOF\n";
  CHECK(listed("") == false);
  CHECK(listed(line("OFDLCK", "WRITE", "00:28:13", byte + " " + byte)) == true);
  CHECK(listed(line("FLOCK", "WRITE", "00:28:13", "0 EOF") + line("OFDLCK", "WRITE", "fe:00:13", "0 EOF")) == true);
  for (const std::string& not_it :
       {line("OFDLCK", "READ ", "00:28:13", byte + " " + byte), line("OFDLCK", "WRITE", "00:28:130", byte + " " + byte),
        line("OFDLCK", "WRITE", "00:28:13", "0 1099511627775"),
        line("OFDLCK", "WRITE", "00:28:13", "1099511627777 EOF"),
        line("-> OFDLCK", "WRITE", "00:28:13", byte + " " + byte), line("POSIX ", "WRITE", "00:28:13", "0 EOF"),
        line("FLOCK ", "WRITE", "00:28:13", "0 EOF")}) {
    CAPTURE(not_it);
    CHECK(listed(not_it) == false);
  }
  CHECK_FALSE(listed(other));  // one of them is on a file that is not named
  const std::string whole = line("OFDLCK", "WRITE", "00:28:99", byte + " " + byte);
  for (std::size_t size = 1; size < whole.size(); ++size) {
    CAPTURE(size);
    CHECK_FALSE(listed(whole.substr(0, size)));
  }
}

TEST_CASE("a stat line with something between name and state, or a state that is no letter, is malformed") {
  REQUIRE(parse_proc_stat(stat_line("sh")));
  std::string line = stat_line("sh");
  CHECK_FALSE(parse_proc_stat(line.insert(line.find(')') + 1, "x")));
  for (const std::string_view state : {"@", "[", "`", "{", "SS", ""}) {
    CAPTURE(state);
    CHECK_FALSE(parse_proc_stat(with_field(3, state)));
  }
}
