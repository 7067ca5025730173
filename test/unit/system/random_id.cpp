#include "system/random_id.hpp"

#include <cerrno>
#include <set>
#include <string>
#include <system_error>

#include <doctest/doctest.h>

#include "process.hpp"
#include "script.hpp"

using namespace sessionlock;
using namespace sessionlock::test;

namespace {

/// What all ids of a process begin with.
std::string process_part(const std::string& id) {
  return id.substr(0, 20);
}

}  // namespace

TEST_CASE("a lock id is 32 hexadecimal digits, and no two of a process are alike") {
  std::set<std::string> ids;
  for (int i = 0; i < 1000; ++i) {
    const auto id = random_lock_id();
    REQUIRE(id.has_value());
    CHECK(id->size() == 32);
    CHECK(id->find_first_not_of("0123456789abcdef") == std::string::npos);
    CHECK(process_part(*id) == process_part(*random_lock_id()));
    ids.insert(*id);
  }
  CHECK(ids.size() == 1000);
}

TEST_CASE("an id costs no system call once the process has had its first") {
  REQUIRE(random_lock_id().has_value());
  const Script script([](const sys::CallInfo&) { return EIO; });
  for (int i = 0; i < 100; ++i) {
    CHECK(random_lock_id().has_value());
  }
}

TEST_CASE("a forked child's ids are not its parent's") {
  const auto own = random_lock_id();
  REQUIRE(own.has_value());
  for (const ForkWay& way : k_fork_ways) {
    CAPTURE(way.name);
    const int code = exit_code_in(way, [&] {
      const auto id = random_lock_id();
      return id && process_part(*id) != process_part(*own) ? 0 : 1;
    });
    CHECK(code == 0);
  }
}

TEST_CASE("a process that had no random bytes asks for them again") {
  auto child = ChildProcess::run([](Channel&) {
    {
      const Script script(failing(sys::Call::getrandom, ENOSYS));
      REQUIRE_IN_CHILD(random_lock_id().error() == std::errc::function_not_supported);
    }
    REQUIRE_IN_CHILD(random_lock_id().has_value());
    return 0;
  });
  CHECK(child.wait().exited_with(0));
}
