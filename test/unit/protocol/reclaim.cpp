#include "protocol/reclaim.hpp"

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lock_tools.hpp"
#include "process.hpp"
#include "protocol/temporary_name.hpp"
#include "publishing.hpp"
#include "script.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;

namespace {

Result<bool> yes() {
  return true;
}

struct Removable {
  TemporaryDirectory directory;
  fs::path path = directory / "s.lock";
  Place place = place_in(directory.path(), "s.lock");
  Removable() { plant(path, foreign_record(7)); }
};

}  // namespace

TEST_CASE("a removable lock is judged and unlinked under its flock, which then ends") {
  // Protects: the `flock` in `reclaim` (INVARIANT 1; trap 3).
  const Removable lock;
  auto pinned = pinned_at(lock.place);
  const SecondDescription other(lock.path);
  bool judged_under_it = false;
  bool unlinked_under_it = false;
  bool renamed = false;
  const auto ended = [&] {
    const Script script([&](const sys::CallInfo& info) {
      if (is(info, sys::Call::unlinkat)) {
        unlinked_under_it = !other.can_flock();
      }
      renamed = renamed || is(info, sys::Call::renameat2);
      return 0;
    });
    return reclaim(lock.place, pinned, [&]() -> Result<bool> {
      judged_under_it = !other.can_flock();
      return true;
    });
  }();
  REQUIRE(ended.has_value());
  CHECK(*ended == Reclaim::done);
  CHECK(judged_under_it);
  CHECK(unlinked_under_it);
  CHECK(!renamed);  // trap 2: renaming it aside could take a successor's
  CHECK(other.can_flock());
  CHECK(names_in(lock.directory.path()).empty());
}

TEST_CASE("a lock whose flock another has is busy, and is not even judged") {
  const Removable lock;
  auto pinned = pinned_at(lock.place);
  const SecondDescription other(lock.path);
  other.flock();
  const auto ended = reclaim(lock.place, pinned, []() -> Result<bool> {
    FAIL("judged without the flock");
    return true;
  });
  REQUIRE(ended.has_value());
  CHECK(*ended == Reclaim::busy);
  CHECK(fs::exists(lock.path));
}

TEST_CASE("what the lock says now decides, and a lock that is no longer removable is spared") {
  // Protects: `read_again` and the second judgement in `reclaim_locked`.
  const Removable lock;
  auto pinned = pinned_at(lock.place);
  write_text(lock.path, foreign_record(8));
  const auto ended = reclaim(lock.place, pinned, [&]() -> Result<bool> { return pinned.content->record.pid == 7; });
  REQUIRE(ended.has_value());
  CHECK(*ended == Reclaim::spared);
  CHECK(fs::exists(lock.path));
  CHECK(SecondDescription(lock.path).can_flock());
}

TEST_CASE("a lock that was replaced after it was judged is kept") {
  // Protects: `names_inode` in `reclaim_locked` (trap 1).
  const Removable lock;
  auto pinned = pinned_at(lock.place);
  fs::remove(lock.path);
  plant(lock.path, foreign_record(8));
  const auto successor = inode_of(lock.path);
  const auto ended = reclaim(lock.place, pinned, yes);
  REQUIRE(ended.has_value());
  CHECK(*ended == Reclaim::replaced);
  CHECK(inode_of(lock.path) == successor);
}

TEST_CASE("a lock that is gone already is not removed again") {
  const Removable lock;
  auto pinned = pinned_at(lock.place);
  SUBCASE("before the comparison") {
    fs::remove(lock.path);
    CHECK(reclaim(lock.place, pinned, yes) == Reclaim::replaced);
  }
  SUBCASE("after it") {
    const Script script([&](const sys::CallInfo& info) {
      if (is(info, sys::Call::unlinkat)) {
        fs::remove(lock.path);
      }
      return 0;
    });
    CHECK(reclaim(lock.place, pinned, yes) == Reclaim::done);
  }
}

TEST_CASE("a removal that fails keeps the failure's name and gives the flock back") {
  const Removable lock;
  auto pinned = pinned_at(lock.place);
  const SecondDescription other(lock.path);
  for (const auto& failure :
       {std::pair{sys::Call::unlinkat, EPERM}, std::pair{sys::Call::unlinkat, EROFS},
        std::pair{sys::Call::fstatat, EIO}, std::pair{sys::Call::flock, ENOLCK}, std::pair{sys::Call::pread, ENOMEM}}) {
    const sys::Call call = failure.first;
    const int error = failure.second;
    CAPTURE(sys::to_string(call));
    bool first = true;
    const auto ended = [&] {
      const Script script(
          [&](const sys::CallInfo& info) { return is(info, call) && std::exchange(first, false) ? error : 0; });
      return reclaim(lock.place, pinned, yes);
    }();
    REQUIRE(!ended);
    CHECK(ended.error().code == std::error_code(error, std::system_category()));
    CHECK(ended.error().operation == (call == sys::Call::unlinkat ? "remove" : sys::to_string(call)));
    CHECK(fs::exists(lock.path));
    CHECK(other.can_flock());
  }
  const auto ended =
      reclaim(lock.place, pinned, []() -> Result<bool> { return tl::unexpected(Error{Errc::invalid_argument}); });
  REQUIRE(!ended);
  CHECK(ended.error().code == Errc::invalid_argument);
  CHECK(other.can_flock());
}

TEST_CASE("a lock that cannot be read again under its flock is judged as unreadable") {
  const Removable lock;
  auto pinned = pinned_at(lock.place);
  const Script script([](const sys::CallInfo& info) { return is(info, sys::Call::pread) ? EIO : 0; });
  const auto ended = reclaim(lock.place, pinned, [&]() -> Result<bool> { return pinned.content.has_value(); });
  CHECK(ended == Reclaim::spared);
}

namespace {

/// A complete file under a temporary name beside the lock, which is renamed over it.
class Renamed : public Successor {
 public:
  explicit Renamed(const Removable& lock)
      : lock_(lock), name_(Place{lock.place.directory, temporary_name("s.lock", std::string(32, 'a'))}) {}
  Result<void> make() override {
    plant(name_.place().path(), foreign_record(8));
    return {};
  }
  Result<Reclaim> take_place(PinnedInode& judged, InodeGuard& guard) override {
    CHECK(judged.file.inode == inode_of(lock_.path));
    const auto renamed =
        sys::rename_over(lock_.place.directory->fd.get(), name_.place().name.c_str(), lock_.place.name.c_str());
    if (!renamed.ok()) {
      return failure(renamed.code(), "renameat", lock_.place);
    }
    name_.forget();
    if (keeps_lock) {
      guard.keep();
    }
    return Reclaim::done;
  }
  bool keeps_lock{false};

 private:
  const Removable& lock_;
  TemporaryName name_;
};

}  // namespace

TEST_CASE("a successor takes the place of a removable lock under the lock's flock, which it may keep") {
  for (const bool keeps_lock : {false, true}) {
    CAPTURE(keeps_lock);
    const Removable lock;
    auto pinned = pinned_at(lock.place);
    const SecondDescription other(lock.path);
    const auto before = inode_of(lock.path);
    bool was_ever_free = false;
    bool renamed_under_it = false;
    {
      Renamed successor(lock);
      successor.keeps_lock = keeps_lock;
      const Script script([&](const sys::CallInfo& info) {
        was_ever_free = was_ever_free || !fs::exists(lock.path);
        renamed_under_it = renamed_under_it || (is(info, sys::Call::renameat) && !other.can_flock());
        return 0;
      });
      CHECK(reclaim(lock.place, pinned, yes, &successor) == Reclaim::done);
    }
    CHECK(!was_ever_free);
    CHECK(renamed_under_it);
    CHECK(other.can_flock() != keeps_lock);
    CHECK(inode_of(lock.path) != before);
    CHECK(pinned_at(lock.place).content->record.pid == 8);
    CHECK(names_in(lock.directory.path()).size() == 1);
  }
}

TEST_CASE("a successor that does not take the place leaves its temporary name") {
  const Removable lock;
  auto pinned = pinned_at(lock.place);
  const auto fails = [&](const Answer& answer, const Judge& judge) {
    Renamed successor(lock);
    const Script script(answer);
    return reclaim(lock.place, pinned, judge, &successor);
  };
  const Answer nothing = [](const sys::CallInfo&) { return 0; };
  CHECK(fails(nothing, []() -> Result<bool> { return false; }) == Reclaim::spared);
  CHECK(names_in(lock.directory.path()).size() == 1);
  const auto refused = fails([](const sys::CallInfo& info) { return is(info, sys::Call::renameat) ? EPERM : 0; }, yes);
  CHECK(code_of(refused) == std::errc::operation_not_permitted);
  CHECK(names_in(lock.directory.path()).size() == 1);
  fs::remove(lock.path);
  plant(lock.path, foreign_record(9));
  CHECK(fails(nothing, yes) == Reclaim::replaced);
  CHECK(names_in(lock.directory.path()).size() == 1);
  CHECK(pinned_at(lock.place).content->record.pid == 9);
}
