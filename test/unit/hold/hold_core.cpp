// The phases of a hold, and what clean-up at exit and in a signal handler makes of each.

#include "hold/hold_core.hpp"

#include <array>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <string>
#include <thread>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hold/exit_cleanup.hpp"
#include "lock_tools.hpp"
#include "process.hpp"
#include "script.hpp"
#include "system/file_status.hpp"
#include "system/system.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;

namespace {

/// A hold on a file of its own, without anything around it.
struct BareHold {
  BareHold() {
    write_text(path, "a lock");
    file = sys::open(AT_FDCWD, path.c_str(), O_RDWR).fd;
    directory = sys::open(AT_FDCWD, at.path().c_str(), O_PATH | O_DIRECTORY).fd;
    struct stat status {};
    REQUIRE(sys::fstat(file.get(), status).ok());
    core.descriptor = &file;
    core.place = {directory.get(), "s.lock"};
    core.file = identity_of(status);
    core.generation = sys::process_generation();
  }
  [[nodiscard]] HoldPhase phase() const { return core.phase.load(); }

  TemporaryDirectory at{};
  fs::path path = at / "s.lock";
  sys::Fd file{};
  sys::Fd directory{};
  HoldCore core{};
};

}  // namespace

TEST_CASE("an idle hold ends once, and its file is gone") {
  BareHold hold;
  CHECK(hold.core.try_end() == Ending::released);
  CHECK(hold.phase() == HoldPhase::ended);
  CHECK(!fs::exists(hold.path));
  write_text(hold.path, "the next one's");
  CHECK(hold.core.try_end() == Ending::was_ended);
  CHECK(fs::exists(hold.path));
}

TEST_CASE("a hold that is being written under, or ended by another thread, is left as it is") {
  for (const HoldPhase busy : {HoldPhase::guarded, HoldPhase::ending}) {
    BareHold hold;
    hold.core.phase.store(busy);
    CHECK(hold.core.try_end() == Ending::refused);
    CHECK(hold.phase() == busy);
    CHECK(fs::exists(hold.path));
  }
}

TEST_CASE("a hold whose file has lost its name is lost, and what has the name now stays") {
  BareHold hold;
  fs::rename(hold.path, hold.at / "aside");
  write_text(hold.path, "the next one's");
  CHECK(hold.core.try_end() == Ending::lost);
  CHECK(hold.phase() == HoldPhase::ended);
  CHECK(read_text(hold.path) == "the next one's");
  CHECK(is_unguarded(hold.at / "aside"));
}

TEST_CASE("a hold that cannot be ended now is idle again, and its file is not locked") {
  BareHold hold;
  SUBCASE("because the file is locked") {
    const int other = ::open(hold.path.c_str(), O_RDWR | O_CLOEXEC);
    REQUIRE(::flock(other, LOCK_EX | LOCK_NB) == 0);
    CHECK(hold.core.try_end() == Ending::refused);
    ::close(other);
  }
  SUBCASE("because the directory does not let it go") {
    const Script script(failing(sys::Call::unlinkat, EACCES));
    CHECK(hold.core.try_end() == Ending::refused);
  }
  SUBCASE("because the file's name cannot be looked at") {
    const Script script(failing(sys::Call::fstatat, EIO));
    CHECK(hold.core.try_end() == Ending::refused);
  }
  CHECK(hold.phase() == HoldPhase::idle);
  CHECK(is_unguarded(hold.path));
  CHECK(hold.core.try_end() == Ending::released);
}

TEST_CASE("of several threads that end a hold at the same time one ends it") {
  for (int round = 0; round < 50; ++round) {
    BareHold hold;
    std::atomic<bool> go{false};
    std::atomic<int> ended{0};
    std::array<std::thread, 4> threads;
    for (auto& thread : threads) {
      thread = std::thread([&] {
        while (!go.load()) {
        }
        ended += hold.core.try_end() == Ending::released ? 1 : 0;
      });
    }
    go.store(true);
    for (auto& thread : threads) {
      thread.join();
    }
    REQUIRE(ended.load() == 1);
  }
}

TEST_CASE("a forked child ends no hold of its parent's") {
  BareHold hold;
  auto child = ChildProcess::run([&](Channel&) { return hold.core.try_end() == Ending::refused ? 0 : 1; });
  CHECK(child.wait().exited_with(0));
  CHECK(fs::exists(hold.path));
  CHECK(hold.core.try_end() == Ending::released);
}

TEST_CASE("a number that is another file's now is not taken for the lock's") {
  BareHold hold;
  write_text(hold.at / "other", "");
  const int other = ::open((hold.at / "other").c_str(), O_RDWR | O_CLOEXEC);
  REQUIRE(::dup3(other, hold.core.fd(), O_CLOEXEC) == hold.core.fd());
  ::close(other);
  CHECK(!hold.core.owns_descriptor());
  CHECK(hold.core.try_end() == Ending::lost);
  CHECK(is_unguarded(hold.at / "other"));
  CHECK(fs::exists(hold.path));
}

TEST_CASE("clean-up ends the holds that are registered, idle, and not to outlive the process") {
  BareHold idle;
  BareHold guarded;
  BareHold kept;
  BareHold forgotten;
  guarded.core.phase.store(HoldPhase::guarded);
  kept.core.release_at_exit = false;
  for (BareHold* hold : {&idle, &guarded, &kept, &forgotten}) {
    register_for_cleanup(hold->core);
  }
  unregister_from_cleanup(forgotten.core);
  clean_up_holds();
  CHECK(idle.phase() == HoldPhase::ended);
  CHECK(!fs::exists(idle.path));
  for (const BareHold* hold : {&guarded, &kept, &forgotten}) {
    CHECK(fs::exists(hold->path));
  }
  for (BareHold* hold : {&idle, &guarded, &kept}) {
    unregister_from_cleanup(hold->core);
  }
}
