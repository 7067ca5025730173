#include "protocol/inode_guard.hpp"

#include <cerrno>
#include <filesystem>

#include <doctest/doctest.h>

#include "lock_tools.hpp"
#include "process.hpp"
#include "publishing.hpp"
#include "script.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;

TEST_CASE("a guard needs the flock and the name") {
  const TemporaryDirectory directory;
  const fs::path path = directory / "s.lock";
  const Place place = place_in(directory.path(), "s.lock");
  const auto lock = published(place);
  const int parent = place.directory->fd.get();
  const auto enter = [&] { return try_enter_guard({parent, "s.lock"}, lock.fd.get(), lock.file).answer; };
  {
    const SecondDescription other(path);
    CHECK(enter() == Step::Answer::done);
    CHECK(!other.can_flock());
    CHECK(leave_guard(lock.fd.get()).answer == Step::Answer::done);
    CHECK(other.can_flock());
    other.flock();
    CHECK(enter() == Step::Answer::busy);
  }
  fs::rename(path, directory / "aside");
  CHECK(enter() == Step::Answer::other);
  CHECK(SecondDescription(directory / "aside").can_flock());
  plant(path, "{}");
  CHECK(enter() == Step::Answer::other);
  const Script script([](const sys::CallInfo& info) { return is(info, sys::Call::fstatat) ? EIO : 0; });
  CHECK(enter() == Step::Answer::failed);
  CHECK(SecondDescription(directory / "aside").can_flock());
}

TEST_CASE("a guard unlocks at the end of its scope, unless it is to be kept") {
  const TemporaryDirectory directory;
  const Place place = place_in(directory.path(), "s.lock");
  const auto lock = published(place);
  const SecondDescription other(directory / "s.lock");
  {
    const InodeGuard guard = InodeGuard::enter(place.view(), lock.fd.get(), lock.file);
    CHECK(guard.is_entered());
    CHECK(!other.can_flock());
  }
  CHECK(other.can_flock());
  {
    InodeGuard guard = InodeGuard::lock(place.view(), lock.fd.get());
    CHECK(guard.is_entered());
    guard.keep();
  }
  CHECK(!other.can_flock());
  { const InodeGuard guard = InodeGuard::of_locked(lock.fd.get()); }
  CHECK(other.can_flock());
  other.flock();
  const InodeGuard guard = InodeGuard::lock(place.view(), lock.fd.get());
  CHECK(guard.step().answer == Step::Answer::busy);
}
