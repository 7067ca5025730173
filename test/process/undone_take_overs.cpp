// Take-overs that are made and undone on real file systems.

#include <chrono>
#include <filesystem>
#include <functional>
#include <string>

#include <doctest/doctest.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <sessionlock/lock_manager.hpp>

#include "check_in.hpp"
#include "lock_tools.hpp"
#include "process.hpp"
#include "script.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;

namespace {

/// A dead owner's lock at `dead.jsonl` is taken over through a link that leads elsewhere then; so the next turn of that
/// session is told of the owner. After it nothing is left.
void undo_and_take_over(const fs::path& directory, pid_t dead) {
  const fs::path link = directory / "link";
  fs::create_symlink("dead.jsonl", link);
  const auto before = inode_of(directory / "dead.jsonl.lock");
  int exchanges = 0;
  {
    const Script script([&](const sys::CallInfo& info) {
      if (is_call_on(info, sys::Call::renameat2, "dead.jsonl.lock") && ++exchanges == 1) {
        fs::remove(link);
        fs::create_symlink("other", link);
      }
      return 0;
    });
    REQUIRE_IN_CHILD(!held(try_lock(link)).reclaimed_from());
  }
  REQUIRE_IN_CHILD(exchanges == 2);
  REQUIRE_IN_CHILD(inode_of(directory / "dead.jsonl.lock") == before);
  const auto next = held(try_lock(directory / "dead.jsonl"));
  REQUIRE_IN_CHILD(next.reclaimed_from() && next.reclaimed_from()->record.pid == dead);
  REQUIRE_IN_CHILD(names_in(directory) == std::vector<std::string>{"dead.jsonl.lock", "link"});
}

/// An overlay of directories on two file systems; `fill` makes the files of its lower layer.
void on_overlay(const std::function<void(const fs::path& lower)>& fill,
                const std::function<void(const fs::path&)>& body) {
  check_in({CLONE_NEWNS}, [&](Channel& parent) {
    const TemporaryDirectory scratch;
    for (const char* const name : {"lower", "top", "merged"}) {
      fs::create_directory(scratch / name);
    }
    if (::mount("none", (scratch / "lower").c_str(), "tmpfs", 0, "size=64k") != 0 ||
        ::mount("none", (scratch / "top").c_str(), "tmpfs", 0, "size=64k") != 0) {
      return skip_from_inside(parent, "a tmpfs cannot be mounted");
    }
    fill(scratch / "lower");
    fs::create_directory(scratch / "top/upper");
    fs::create_directory(scratch / "top/work");
    const std::string options = "lowerdir=" + (scratch / "lower").native() +
                                ",upperdir=" + (scratch / "top/upper").native() +
                                ",workdir=" + (scratch / "top/work").native();
    if (::mount("overlay", (scratch / "merged").c_str(), "overlay", 0, options.c_str()) != 0) {
      return skip_from_inside(parent, "an overlay cannot be mounted");
    }
    body(scratch / "merged");
    for (const char* const name : {"merged", "lower", "top"}) {
      ::umount2((scratch / name).c_str(), MNT_DETACH);
    }
    return 0;
  });
}

}  // namespace

TEST_CASE("a take-over is undone on the file system of temporary directories, and in memory") {
  check_in({CLONE_NEWNS}, [](Channel& parent) {
    const TemporaryDirectory directory;
    const pid_t dead = dead_pid();
    plant(directory / "dead.jsonl.lock", foreign_record(dead));
    undo_and_take_over(directory.path(), dead);
    const TemporaryDirectory mounted;
    if (::mount("none", mounted.path().c_str(), "tmpfs", 0, "size=64k") != 0) {
      return skip_from_inside(parent, "a tmpfs cannot be mounted");
    }
    plant(mounted / "dead.jsonl.lock", foreign_record(dead));
    undo_and_take_over(mounted.path(), dead);
    ::umount2(mounted.path().c_str(), MNT_DETACH);
    return 0;
  });
}

TEST_CASE("a take-over is undone on an overlay") {
  const pid_t dead = dead_pid();
  on_overlay([](const fs::path&) {},
             [dead](const fs::path& merged) {
               plant(merged / "dead.jsonl.lock", foreign_record(dead));
               undo_and_take_over(merged, dead);
             });
}

TEST_CASE("a lock of an overlay's lower layer, which an exchange copies up, is taken over") {
  const pid_t dead = dead_pid();
  on_overlay([dead](const fs::path& lower) { plant(lower / "dead.jsonl.lock", foreign_record(dead)); },
             [dead](const fs::path& merged) {
               const auto lock = held(try_lock(merged / "dead.jsonl"));
               REQUIRE_IN_CHILD(lock.reclaimed_from() && lock.reclaimed_from()->record.pid == dead);
               REQUIRE_IN_CHILD(names_in(merged) == std::vector<std::string>{"dead.jsonl.lock"});
             });
}
