#include "protocol/temporary_name.hpp"

#include <string>

#include <doctest/doctest.h>

using namespace sessionlock;

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
