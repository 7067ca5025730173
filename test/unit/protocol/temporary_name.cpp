#include "protocol/temporary_name.hpp"

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

TEST_CASE("the temporary name of a lock tells the lock's name") {
  const std::string name = temporary_name("s.lock", std::string(32, 'a'));
  CHECK(name == ".s.lock." + std::string(32, 'a') + ".tmp");
  CHECK(lock_name_of_temporary(name) == "s.lock");
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
