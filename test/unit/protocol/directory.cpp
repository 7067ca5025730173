#include "protocol/directory.hpp"

#include <cerrno>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include <doctest/doctest.h>
#include <sys/mount.h>

#include "lock_tools.hpp"
#include "process.hpp"
#include "protocol/session_location.hpp"
#include "script.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;

TEST_CASE("a removed directory is known to be removed") {
  const TemporaryDirectory directory;
  fs::create_directory(directory / "d");
  const auto location = located(directory / "d/s");
  CHECK(!location.lock.directory->is_removed());
  fs::remove(directory / "d");
  CHECK(location.lock.directory->is_removed());
  CHECK(code_of(locate(directory / "d/s", {})) == std::errc::no_such_file_or_directory);
  SUBCASE("and one that is made in its place is another") {
    fs::create_directory(directory / "d");
    const auto fresh = located(directory / "d/s");
    CHECK(!fresh.lock.directory->is_removed());
    CHECK(fresh.lock.directory != location.lock.directory);
  }
}

TEST_CASE("another directory under the same path is not taken for the one that was open") {
  const TemporaryDirectory directory;
  fs::create_directory(directory / "d");
  const auto before = located(directory / "d/s");
  fs::rename(directory / "d", directory / "e");
  fs::create_directory(directory / "d");
  const auto after = located(directory / "d/s");
  CHECK(before.lock.directory->identity != after.lock.directory->identity);
  CHECK(after.session.path() == directory / "d/s");
  CHECK(!*is_current(before, directory / "d/s", {}));
}

TEST_CASE("holders in one directory share its descriptor, and none is kept without a holder") {
  const TemporaryDirectory directory;
  const auto before = sys::open_descriptor_count();
  {
    const auto a = located(directory / "a");
    const auto b = located(directory / "b");
    CHECK(a.lock.directory == b.lock.directory);
    CHECK(sys::open_descriptor_count() == before + 1);
  }
  CHECK(sys::open_descriptor_count() == before);
}

TEST_CASE("an idle directory does not keep its file system from being unmounted") {
  const auto child = ChildProcess::run([](Channel&) {
                       std::string why_not;
                       const auto mount = TmpfsMount::mount("size=64k", &why_not);
                       if (!mount) {
                         skip_aloud("a tmpfs cannot be mounted: " + why_not);
                         return 0;
                       }
                       REQUIRE_IN_CHILD(locate(*mount / "s", {}).has_value());
                       REQUIRE_IN_CHILD(::umount2(mount->path().c_str(), 0) == 0);  // EBUSY if anything is open there
                       return 0;
                     }).wait();
  CHECK(child.exited_with(0));
}

TEST_CASE("what the system says about a directory keeps its own identity") {
  const TemporaryDirectory directory;
  for (const auto& [call, error] :
       {std::pair{sys::Call::openat, EMFILE}, std::pair{sys::Call::statx, EIO}, std::pair{sys::Call::fstatfs, EIO}}) {
    const Script script(failing(call, error));
    const auto location = locate(directory / "s", {});
    REQUIRE(!location);
    CHECK(location.error().code == std::error_code(error, std::system_category()));
  }
}

TEST_CASE("a mount is asked what it can do once, and another mount at the same path is asked anew") {
  const TemporaryDirectory directory;
  const auto child = ChildProcess::run([&directory](Channel&) {
                       int asked = 0;
                       const Script script([&asked](const sys::CallInfo& info) {
                         asked += info.call == sys::Call::fstatfs ? 1 : 0;
                         return 0;
                       });
                       // The root directories of two tmpfs have one inode number, and may get one device number.
                       const auto mount = [&directory] {
                         return ::mount("none", directory.path().c_str(), "tmpfs", 0, "size=64k") == 0;
                       };
                       if (!mount()) {
                         skip_aloud("a tmpfs cannot be mounted");
                         return 0;
                       }
                       REQUIRE_IN_CHILD(locate(directory / "s", {}).has_value());
                       REQUIRE_IN_CHILD(asked == 1);
                       REQUIRE_IN_CHILD(locate(directory / "s", {}).has_value());
                       const int asked_again = asked;  // 2 where the kernel gives mounts no unique number
                       REQUIRE_IN_CHILD(::umount2(directory.path().c_str(), 0) == 0);
                       REQUIRE_IN_CHILD(mount());
                       REQUIRE_IN_CHILD(locate(directory / "s", {}).has_value());
                       REQUIRE_IN_CHILD(asked == asked_again + 1);
                       REQUIRE_IN_CHILD(::umount2(directory.path().c_str(), 0) == 0);
                       return 0;
                     }).wait();
  CHECK(child.exited_with(0));
}

TEST_CASE("without /proc a directory's canonical path is found all the same") {
  const TemporaryDirectory directory;
  fs::create_directory(directory / "d");
  fs::create_directory_symlink("d", directory / "link");
  const Script script([](const sys::CallInfo& info) {
    return info.call == sys::Call::readlinkat && info.path != nullptr &&
                   std::string_view(info.path).starts_with("/proc")
               ? ENOENT
               : 0;
  });
  CHECK(located(directory / "link/s").session.path() == directory / "d/s");
}

TEST_CASE("what is remembered of directories is forgotten when there are too many") {
  const TemporaryDirectory directory;
  constexpr int k_directories = 300;
  const auto first = open_directory(directory.path());
  REQUIRE(first.has_value());
  CHECK(open_directory(directory.path()).value() == *first);
  for (int i = 0; i < k_directories; ++i) {
    const auto other = directory / std::to_string(i);
    fs::create_directory(other);
    REQUIRE(open_directory(other).has_value());
  }
  const auto again = open_directory(directory.path());
  REQUIRE(again.has_value());
  CHECK(*again != *first);  // another descriptor of the same
  CHECK((*again)->identity == (*first)->identity);
}
