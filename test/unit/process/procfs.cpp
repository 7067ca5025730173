#include "process/procfs.hpp"

#include <limits>
#include <string_view>

#include <doctest/doctest.h>
#include <sys/stat.h>

#include "process.hpp"
#include "system/system.hpp"

using namespace sessionlock;
using namespace std::string_view_literals;

TEST_CASE("a descriptor link leads to what the descriptor is open on") {
  const test::TemporaryDirectory directory;
  test::write_text(directory / "file", "text");
  auto opened = sys::open(-1, (directory / "file").c_str(), 0);
  REQUIRE(opened.ok());
  struct stat by_descriptor {};
  struct stat by_link {};
  REQUIRE(::fstat(opened.fd.get(), &by_descriptor) == 0);
  REQUIRE(::stat(descriptor_link(opened.fd.get()).data(), &by_link) == 0);
  CHECK(by_descriptor.st_ino == by_link.st_ino);
}

TEST_CASE("a descriptor link has room for every number") {
  CHECK(descriptor_link(0).data() == "/proc/thread-self/fd/0"sv);
  CHECK(descriptor_link(std::numeric_limits<int>::max()).data() == "/proc/thread-self/fd/2147483647"sv);
  CHECK(descriptor_link(-1).data() == "/proc/thread-self/fd/-1"sv);
  CHECK(descriptor_link(std::numeric_limits<int>::min()).data() == "/proc/thread-self/fd/-1"sv);
}
