#include "protocol/take_over.hpp"

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lock_tools.hpp"
#include "process.hpp"
#include "protocol/temporary_name.hpp"
#include "publishing.hpp"
#include "script.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;

namespace {

/// A dead owner's lock, two hours old.
struct DeadLock {
  TemporaryDirectory directory{};
  fs::path path = directory / "s.lock";
  Place place = place_in(directory.path(), "s.lock");
  std::string text = foreign_record(dead_pid());
  std::uint64_t inode{};
  DeadLock() {
    plant(path, text);
    make_older(path, 2h);
    inode = inode_of(path);
  }

  [[nodiscard]] Result<TakeOver> take_over() {
    auto pinned = pinned_at(place);
    const InspectionContext context{StalePolicy{}, [](const FileIdentity&) { return false; }, std::nullopt};
    Inspection inspection = judge(pinned, place, context);
    record = own_record();
    return sessionlock::take_over(place, pinned, inspection, context, lock_publication(place, record, {}));
  }
  [[nodiscard]] TakeOver taken_over() {
    auto taken = take_over();
    if (!taken || taken->outcome != Reclaim::done) {
      throw ProcessFailure(taken ? "not taken over" : taken.error().message());
    }
    return std::move(*taken);
  }
  /// Where the replaced lock is kept; empty: nowhere.
  [[nodiscard]] fs::path kept() const {
    for (const auto& name : names_in(directory.path())) {
      if (is_temporary_name(name)) {
        return directory / name;
      }
    }
    return {};
  }
  [[nodiscard]] bool is_back() const {
    return read_text(path) == text && fs::file_time_type::clock::now() - fs::last_write_time(path) > 1h &&
           names_in(directory.path()).size() == 1;
  }

  LockRecord record{};
};

Answer without_exchange(Answer otherwise = [](const sys::CallInfo&) { return 0; }) {
  return [otherwise = std::move(otherwise)](const sys::CallInfo& info) {
    return is(info, sys::Call::renameat2) ? EINVAL : otherwise(info);
  };
}

}  // namespace

TEST_CASE("what was replaced is kept, locked, until it is discarded") {
  DeadLock lock;
  auto taken = lock.taken_over();
  REQUIRE(taken.file->replaced != nullptr);
  CHECK(taken.file->replaced->is_kept());
  CHECK(inode_of(lock.kept()) == lock.inode);
  CHECK(!is_unguarded(lock.kept()));
  CHECK(inode_of(lock.path) == taken.file->file.inode);
  const auto descriptors = sys::open_descriptor_count();
  taken.file->replaced->discard();
  CHECK(sys::open_descriptor_count() == descriptors - 1);
  CHECK(!taken.file->replaced->is_kept());
  CHECK(names_in(lock.directory.path()).size() == 1);
  taken.file.reset();
  CHECK(inode_of(lock.path) != lock.inode);
}

TEST_CASE("a take-over that is dropped puts back the very file, and leaves it unlocked") {
  DeadLock lock;
  const auto descriptors = sys::open_descriptor_count();
  (void)lock.taken_over();
  CHECK(lock.is_back());
  CHECK(inode_of(lock.path) == lock.inode);
  CHECK(is_unguarded(lock.path));
  CHECK(sys::open_descriptor_count() == descriptors);
}

TEST_CASE("a kept file is not put back over another's lock") {
  DeadLock lock;
  const std::string other = foreign_record(::getppid());
  {
    const auto taken = lock.taken_over();
    fs::remove(lock.path);
    plant(lock.path, other);
  }
  CHECK(read_text(lock.path) == other);
  CHECK(names_in(lock.directory.path()).size() == 1);
}

TEST_CASE("a lock that another process publishes between comparison and exchange gets its name back") {
  // Protects: the look in `OwnFile::exchange`, and `exchange_back`.
  DeadLock lock;
  const std::string other = foreign_record(::getppid());
  std::uint64_t inode = 0;
  const Script script(once_before([](const sys::CallInfo& info) { return is(info, sys::Call::renameat2); },
                                  [&] {
                                    fs::remove(lock.path);
                                    plant(lock.path, other);
                                    inode = inode_of(lock.path);
                                  }));
  const auto taken = lock.take_over();
  REQUIRE(taken.has_value());
  CHECK(taken->outcome == Reclaim::replaced);
  CHECK(inode_of(lock.path) == inode);
  CHECK(names_in(lock.directory.path()).size() == 1);
}

TEST_CASE("a lock that another process publishes while a take-over is undone gets its name back") {
  // Protects: the look in `ReplacedFile::exchange_back`.
  DeadLock lock;
  std::uint64_t inode = 0;
  auto taken = std::optional(lock.taken_over());
  const Script script(once_before([](const sys::CallInfo& info) { return is(info, sys::Call::renameat2); },
                                  [&] {
                                    fs::remove(lock.path);
                                    plant(lock.path, foreign_record(::getppid()));
                                    inode = inode_of(lock.path);
                                  }));
  taken.reset();
  CHECK(inode_of(lock.path) == inode);
  CHECK(names_in(lock.directory.path()).size() == 1);
}

TEST_CASE("where the exchange cannot be looked at, the lock is taken over all the same") {
  DeadLock lock;
  bool is_exchanged = false;
  const Script script([&](const sys::CallInfo& info) {
    const bool fails = is_exchanged && is(info, sys::Call::fstatat) && info.path[0] == '.';
    is_exchanged = is_exchanged || is(info, sys::Call::renameat2);
    return fails ? EIO : 0;
  });
  CHECK(lock.taken_over().file->replaced->is_kept());
  CHECK(lock.is_back());
}

TEST_CASE("without an exchange of names the replaced file is kept by a second name, and put back by that") {
  in_fresh_process([] {
    DeadLock lock;
    const Script script(without_exchange());
    {
      const auto taken = lock.taken_over();
      REQUIRE_IN_CHILD(taken.file->replaced->is_kept());
      REQUIRE_IN_CHILD(inode_of(lock.kept()) == lock.inode);
      REQUIRE_IN_CHILD(!is_unguarded(lock.kept()));
    }
    REQUIRE_IN_CHILD(lock.is_back());
    REQUIRE_IN_CHILD(inode_of(lock.path) == lock.inode);
    REQUIRE_IN_CHILD(is_unguarded(lock.path));
    lock.taken_over().file->replaced->discard();
    REQUIRE_IN_CHILD(names_in(lock.directory.path()).size() == 1);
  });
}

TEST_CASE("where a second name is refused too, a copy is kept, unless the record may declare a witness") {
  for (const bool is_local : {false, true}) {
    CAPTURE(is_local);
    in_fresh_process([is_local] {
      DeadLock lock;
      lock.place.directory->traits->local = is_local;
      const Script script(without_exchange(no_hard_links));
      {
        const auto taken = lock.taken_over();
        REQUIRE_IN_CHILD((taken.file->replaced != nullptr) == !is_local);
        if (!is_local) {
          REQUIRE_IN_CHILD(read_text(lock.kept()) == lock.text);
          REQUIRE_IN_CHILD(!is_unguarded(lock.kept()));
        }
      }
      REQUIRE_IN_CHILD(is_local || lock.is_back());
      REQUIRE_IN_CHILD(is_local || is_unguarded(lock.path));
    });
  }
}

TEST_CASE("a second name that turns out to be another file's is not kept, and that file is not replaced") {
  in_fresh_process([] {
    DeadLock lock;
    std::uint64_t inode = 0;
    bool is_unsupported = false;
    const Script script([&](const sys::CallInfo& info) {
      if (is(info, sys::Call::renameat2)) {
        is_unsupported = true;
        return EINVAL;
      }
      if (is_unsupported && is(info, sys::Call::linkat) && inode == 0) {
        fs::remove(lock.path);
        plant(lock.path, foreign_record(::getppid()));
        inode = inode_of(lock.path);
      }
      return 0;
    });
    const auto taken = lock.take_over();
    REQUIRE_IN_CHILD(taken.has_value() && taken->outcome == Reclaim::replaced);
    REQUIRE_IN_CHILD(inode_of(lock.path) == inode);
    REQUIRE_IN_CHILD(names_in(lock.directory.path()).size() == 1);
  });
}

TEST_CASE("an exchange that fails to go back is made good by a rename") {
  DeadLock lock;
  auto taken = std::optional(lock.taken_over());
  {
    const Script script(failing(sys::Call::renameat2, ENOSPC));
    taken.reset();
  }
  CHECK(lock.is_back());
  CHECK(inode_of(lock.path) == lock.inode);
}

TEST_CASE("a kept file that nobody can put back goes, and so does the lock, which would have no owner") {
  DeadLock lock;
  auto taken = std::optional(lock.taken_over());
  {
    const Script script([](const sys::CallInfo& info) {
      return is(info, sys::Call::renameat2) || is(info, sys::Call::renameat) ? EIO : 0;
    });
    taken.reset();
  }
  CHECK(names_in(lock.directory.path()).empty());
}

TEST_CASE("a sweep takes a kept file for a leftover only when its process has ended") {
  // Protects: the `InodeGuard` in `remove_if_left_behind`.
  DeadLock lock;
  const auto now = sys::wall_clock();
  {
    const auto taken = lock.taken_over();
    const Place kept{lock.place.directory, lock.kept().filename()};
    REQUIRE(remove_if_left_behind(kept, now).has_value());
    CHECK(inode_of(lock.kept()) == lock.inode);
  }
  CHECK(lock.is_back());
  const auto child = ChildProcess::run([&](Channel&) {
                       lock.place = place_in(lock.directory.path(), "s.lock");  // of its own
                       const auto taken = lock.taken_over();
                       ::_exit(0);
                       return 1;
                     }).wait();
  CHECK(child.exited_with(0));
  CHECK(inode_of(lock.kept()) == lock.inode);
  const Place kept{lock.place.directory, lock.kept().filename()};
  REQUIRE(remove_if_left_behind(kept, now).has_value());
  CHECK(lock.kept().empty());
}

TEST_CASE("a child that is forked while a file is kept does not put it back") {
  // Protects: the look at the descriptor's registration in `ReplacedFile::~ReplacedFile`.
  DeadLock lock;
  auto taken = std::optional(lock.taken_over());
  const auto child = static_cast<pid_t>(::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));  // runs no fork handlers
  if (child == 0) {
    taken.reset();
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(inode_of(lock.path) == taken->file->file.inode);
  CHECK(inode_of(lock.kept()) == lock.inode);
  CHECK(!is_unguarded(lock.kept()));
  taken.reset();
  CHECK(lock.is_back());
}
