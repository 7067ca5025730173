#include "system/file_status.hpp"

#include <cerrno>
#include <chrono>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "lock_tools.hpp"
#include "process.hpp"
#include "script.hpp"
#include "system/system.hpp"

using namespace sessionlock;
using namespace sessionlock::test;

TEST_CASE("a file's time is told in whole milliseconds, and saturates") {
  struct stat status {};
  status.st_mtim = {1'763'600'000, 999'999'999};
  CHECK(modification_time(status) == WallTime{std::chrono::milliseconds{1'763'600'000'999}});
  status.st_mtim = {std::numeric_limits<time_t>::max(), 0};
  CHECK(modification_time(status) == WallTime::max());
  status.st_mtim = {std::numeric_limits<time_t>::min(), 0};
  CHECK(modification_time(status) == WallTime::min());
}

TEST_CASE("a file system's clock is that of a file just made there, and leaves nothing") {
  const TemporaryDirectory directory;
  const auto opened = sys::open(AT_FDCWD, directory.path().c_str(), O_PATH | O_DIRECTORY);
  REQUIRE(opened.ok());
  plant(directory / "before", "");
  struct stat before {};
  REQUIRE(::stat((directory / "before").c_str(), &before) == 0);
  const auto clock = file_system_clock(opened.fd.get());
  REQUIRE(clock.has_value());
  CHECK(*clock >= WallTime{std::chrono::seconds{before.st_mtim.tv_sec}});
  CHECK(*clock <= sys::wall_clock() + std::chrono::milliseconds{1});
  CHECK(names_in(directory.path()) == std::vector<std::string>{"before"});
  const Script script([](const sys::CallInfo& info) {
    return info.call == sys::Call::openat && std::string_view(info.path) == "." ? EOPNOTSUPP : 0;
  });
  CHECK(!file_system_clock(opened.fd.get()).has_value());
}
