#include "protocol/temporary_name.hpp"

#include <algorithm>
#include <cstddef>
#include <string>

#include <doctest/doctest.h>

#include "lock_tools.hpp"
#include "process.hpp"
#include "protocol/lock_file.hpp"

using namespace sessionlock;
using namespace sessionlock::test;

TEST_CASE("temporary names are recognised exactly") {
  const std::string id = "0123456789abcdef0123456789abcdef";
  CHECK(is_temporary_name(".s.lock." + id + ".tmp"));
  CHECK(!is_temporary_name("s.lock." + id + ".tmp"));
  CHECK(!is_temporary_name("." + id + ".tmp"));
  CHECK(!is_temporary_name(".s.lock." + id.substr(1) + ".tmp"));
  CHECK(!is_temporary_name(".s.lock.0" + id + ".tmp"));
  CHECK(!is_temporary_name(".s.lock." + id + ".tmp2"));
  CHECK(!is_temporary_name(".s.lock.0123456789abcdeg0123456789abcdef.tmp"));
  CHECK(!is_temporary_name(".s.lock"));
  CHECK(!is_temporary_name(""));
}

namespace {

const std::string k_id(32, 'a');

std::string times(std::size_t count, const std::string& text) {
  std::string result;
  for (std::size_t i = 0; i < count; ++i) {
    result += text;
  }
  return result;
}

}  // namespace

TEST_CASE("the temporary name of a lock tells the lock's name") {
  const std::string name = temporary_name("s.lock", k_id);
  CHECK(name == ".s.lock." + k_id + ".tmp");
  CHECK(is_temporary_name_for(name, "s.lock"));
  CHECK_FALSE(is_temporary_name_for(name, "t.lock"));
  CHECK_FALSE(is_temporary_name_for("s.lock", "s.lock"));
  CHECK_FALSE(is_temporary_name_for("", ""));
  CHECK(is_temporary_name_with_suffix(name, ".lock"));
  CHECK_FALSE(is_temporary_name_with_suffix(name, ".pid"));
  CHECK_FALSE(is_temporary_name_with_suffix("s.lock", ".lock"));
}

TEST_CASE("a temporary name is never longer than the name that it stands for, or 143 bytes, and is known for its own") {
  for (std::size_t size = 1; size <= 255; ++size) {
    CAPTURE(size);
    const std::string name = size > 5 ? std::string(size - 5, 's') + ".lock" : std::string(size, 's');
    const std::string temporary = temporary_name(name, k_id);
    CHECK(temporary.size() <= std::max(size, std::size_t{143}));
    CHECK(is_temporary_name(temporary));
    CHECK(is_temporary_name_for(temporary, name));
    CHECK(is_temporary_name_with_suffix(temporary, ".lock") == (size > 5));
  }
  // Some file systems count characters, and take a name of 255 that have three bytes each.
  CHECK(temporary_name(times(255, "日"), k_id).size() <= 255);
}

TEST_CASE("a temporary name has all of a name that leaves room for it, and the end of any other") {
  const std::string fits(105, 's');
  CHECK(temporary_name(fits, k_id) == "." + fits + "." + k_id + ".tmp");
  const std::string name = "a" + std::string(200, 's') + ".lock";
  CHECK(temporary_name(name, k_id) == "." + name.substr(name.size() - (206 - 38)) + "." + k_id + ".tmp");
  CHECK_FALSE(is_temporary_name_for(temporary_name(name, k_id), std::string(201, 't') + ".lock"));
}

TEST_CASE("a temporary name begins with a whole character, whatever bytes the name has") {
  const std::string two_bytes = times(100, "é") + ".lock";  // 205 bytes, of which 167 have room: 81 characters
  CHECK(temporary_name(two_bytes, k_id) == "." + times(81, "é") + ".lock." + k_id + ".tmp");
  const std::string no_text(250, '\x80');
  const std::string temporary = temporary_name(no_text, k_id);
  CHECK(temporary.size() == 250 - 3);
  CHECK(is_temporary_name_for(temporary, no_text));
}

TEST_CASE("a suffix that is longer than what a temporary name has of it is known all the same") {
  const std::string suffix = "." + std::string(230, 'x');
  const std::string temporary = temporary_name(std::string(20, 's') + suffix, k_id);
  CHECK(is_temporary_name_with_suffix(temporary, suffix));
  CHECK_FALSE(is_temporary_name_with_suffix(temporary, ".lock"));
}

TEST_CASE("an old file under a temporary name is removed only if it can be a lock") {
  const TemporaryDirectory directory;
  const std::string name = temporary_name("s.lock", std::string(32, 'a'));
  const auto is_kept = [&](const std::string& text) {
    write_text(directory / name, text);
    make_older(directory / name, std::chrono::minutes{11});
    CHECK(remove_if_left_behind(place_in(directory.path(), name), sys::wall_clock()));
    return std::filesystem::exists(directory / name);
  };
  for (const std::string text : {"", "{\"pid\": 4", "{}", "41237"}) {
    CAPTURE(text);
    CHECK_FALSE(is_kept(text));
  }
  for (const std::string& text : {std::string("words"), std::string("[]"), std::string("{\"event\": 1}"),
                                  std::string(k_lock_record_bytes_max + 1, ' ')}) {
    CHECK(is_kept(text));
  }
}
