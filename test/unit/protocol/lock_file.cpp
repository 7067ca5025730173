#include "protocol/lock_file.hpp"

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
#include "protocol/inspector.hpp"
#include "publishing.hpp"
#include "script.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;

TEST_CASE("nothing at a lock path is no lock") {
  const TemporaryDirectory directory;
  const auto pinned = pin(place_in(directory.path(), "s.lock"));
  REQUIRE(pinned.has_value());
  CHECK(!pinned->has_value());
}

TEST_CASE("a hostile node at a lock path is named at once and left in place") {
  const TemporaryDirectory directory;
  const fs::path lock = directory / "s.lock";
  const Place place = place_in(directory.path(), "s.lock");
  std::string expected;
  SUBCASE("symbolic link") {
    write_text(directory / "target", foreign_record(dead_pid()));
    fs::create_symlink("target", lock);
    expected = "symbolic link";
  }
  SUBCASE("dangling symbolic link") {
    fs::create_symlink("nowhere", lock);
    expected = "symbolic link";
  }
  SUBCASE("directory") {
    fs::create_directory(lock);
    expected = "directory";
  }
  SUBCASE("FIFO") {
    REQUIRE(::mkfifo(lock.c_str(), 0600) == 0);
    expected = "FIFO";
  }
  SUBCASE("socket") {
    REQUIRE(::mknod(lock.c_str(), S_IFSOCK | 0600, 0) == 0);
    expected = "socket";
  }
  SUBCASE("device") {
    if (::mknod(lock.c_str(), S_IFCHR | 0600, 0) != 0) {
      skip_aloud("a device node cannot be made");
      return;
    }
    expected = "device";
  }
  SUBCASE("64 MiB") {
    write_text(lock, "{}");
    fs::resize_file(lock, std::uintmax_t{64} * 1024 * 1024);
    expected = "longer";
  }
  SUBCASE("one byte too long") {
    write_text(lock, std::string(k_lock_record_bytes_max + 1, ' '));
    expected = "longer";
  }
  for (const bool local : {true, false}) {
    place.directory->traits->local = local;
    const auto inode = inode_of(lock);
    const auto pinned = pin(place);
    REQUIRE(!pinned);
    CHECK(pinned.error().code == Errc::not_a_lock_file);
    CHECK(pinned.error().message().find(expected) != std::string::npos);
    CHECK(pinned.error().message().find(lock.string()) != std::string::npos);
    CHECK(inode_of(lock) == inode);
  }
  place.directory->traits->local = true;
}

TEST_CASE("the longest record is read whole") {
  const TemporaryDirectory directory;
  std::string text = R"({"pid": 7)";
  text += std::string(k_lock_record_bytes_max - text.size() - 1, ' ') + "}";
  REQUIRE(text.size() == k_lock_record_bytes_max);
  plant(directory / "s.lock", text);
  CHECK(pinned_at(place_in(directory.path(), "s.lock")).content->record.pid == 7);
}

TEST_CASE("a record that is read in pieces, or grows meanwhile, is read whole") {
  const TemporaryDirectory directory;
  const std::string text = foreign_record(7, "8");
  plant(directory / "s.lock", text.substr(0, 5));
  const Place place = place_in(directory.path(), "s.lock");
  bool grown = false;
  const Script script([&](const sys::CallInfo& info) {
    if (is(info, sys::Call::pread)) {
      if (!std::exchange(grown, true)) {
        write_text(directory / "s.lock", text);
      }
      *info.length = std::min<std::size_t>(*info.length, 3);
    }
    return 0;
  });
  const auto pinned = pinned_at(place);
  CHECK(pinned.content->record == parse_lock_record(text));
  CHECK(pinned.content->record.starttime == 8);
}

TEST_CASE("a lock file that may not be read is unreadable, not absent and not empty") {
  if (!can_become_second_user()) {
    skip_aloud("becoming another user needs root");
    return;
  }
  const TemporaryDirectory directory;
  fs::permissions(directory.path(), fs::perms::all);
  plant(directory / "s.lock", foreign_record(dead_pid()));
  fs::permissions(directory / "s.lock", fs::perms::none);
  CHECK(ChildProcess::run([&](Channel&) {
          fs::current_path(directory.path());  // a path from the root may lead through what is root's alone
          become_second_user();
          const auto pinned = pinned_at(place_in(".", "s.lock"));
          REQUIRE_IN_CHILD(!pinned.content && pinned.content.error() == std::errc::permission_denied && !pinned.fd);
          REQUIRE_IN_CHILD(query_witness(pinned).query == WitnessQuery::not_asked);
          return 0;
        })
            .wait()
            .exited_with(0));
}

TEST_CASE("trouble in reading is unreadable, and our own shortage an error") {
  // Protects: `is_own_shortage` and `PinnedLock::content` (trap 13).
  const TemporaryDirectory directory;
  plant(directory / "s.lock", foreign_record(dead_pid()));
  const Place place = place_in(directory.path(), "s.lock");
  for (const auto call : {sys::Call::openat, sys::Call::fstat, sys::Call::pread}) {
    CAPTURE(sys::to_string(call));
    for (const int error : {EIO, ESTALE, EACCES, EPERM}) {
      const Script script([=](const sys::CallInfo& info) { return is(info, call) ? error : 0; });
      const auto pinned = pin(place);
      REQUIRE(pinned.has_value());
      REQUIRE(pinned->has_value());
      REQUIRE(!(*pinned)->content);
      CHECK((*pinned)->content.error() == std::error_code(error, std::system_category()));
    }
    for (const int error : {EMFILE, ENFILE, ENOMEM}) {
      const Script script([=](const sys::CallInfo& info) { return is(info, call) ? error : 0; });
      const auto pinned = pin(place);
      REQUIRE(!pinned);
      CHECK(pinned.error().code == std::error_code(error, std::system_category()));
    }
  }
}

TEST_CASE("a lock that vanishes while it is opened is no lock") {
  const TemporaryDirectory directory;
  plant(directory / "s.lock", "{}");
  const Script script(outermost([&](const sys::CallInfo& info) {
    if (is_call_on(info, sys::Call::fstatat, "s.lock")) {
      fs::remove(directory / "s.lock");
    }
    return is_call_on(info, sys::Call::openat, "s.lock") ? EIO : 0;
  }));
  const auto pinned = pin(place_in(directory.path(), "s.lock"));
  REQUIRE(pinned.has_value());
  CHECK(!pinned->has_value());
}

TEST_CASE("where flock needs a writable descriptor one is opened if possible") {
  const TemporaryDirectory directory;
  fs::permissions(directory.path(), fs::perms::all);
  plant(directory / "s.lock", foreign_record(7));
  fs::permissions(directory / "s.lock", fs::perms(0644));
  const auto access = [&](bool local) {
    const Place place = place_in(".", "s.lock");
    const bool before = std::exchange(place.directory->traits->local, local);
    const auto pinned = pinned_at(place);
    place.directory->traits->local = before;
    return ::fcntl(pinned.fd.get(), F_GETFL) & O_ACCMODE;
  };
  const WorkingDirectory inside(directory.path());  // a path from the root may lead through what is root's alone
  CHECK(access(true) == O_RDONLY);
  CHECK(access(false) == O_RDWR);
  if (!can_become_second_user()) {
    skip_aloud("becoming another user needs root");
    return;
  }
  CHECK(ChildProcess::run([&](Channel&) {
          become_second_user();
          REQUIRE_IN_CHILD(access(false) == O_RDONLY);
          return 0;
        })
            .wait()
            .exited_with(0));
}

TEST_CASE("a file time beyond the year 2262, or any at all, is neither long ago nor now") {
  std::string why_not;
  const auto mount = TmpfsMount::mount("size=64k", &why_not);  // takes any time there is
  if (!mount) {
    skip_aloud("a tmpfs cannot be mounted: " + why_not);
    return;
  }
  const auto lock = *mount / "s.lock";
  plant(lock, R"({"pid": 7, "bootId": "another one"})");
  const Place place = place_in(mount->path(), "s.lock");
  for (const time_t time : {time_t{10'413'792'000}, std::numeric_limits<time_t>::max()}) {  // 2300-01-01
    const struct timespec times[2] = {{time, 999'999'999}, {time, 999'999'999}};
    REQUIRE(::utimensat(AT_FDCWD, lock.c_str(), times, 0) == 0);
    const auto pinned = pinned_at(place);
    CHECK(pinned.modified > sys::wall_clock() + std::chrono::hours{24 * 365 * 200});
    const Inspection found = judge(pinned, place, {});
    CHECK_FALSE(found.removable);  // another boot, but not one before this
    CHECK(found.file_age == std::chrono::milliseconds{0});
  }
  const struct timespec times[2] = {{std::numeric_limits<time_t>::min(), 0}, {std::numeric_limits<time_t>::min(), 0}};
  REQUIRE(::utimensat(AT_FDCWD, lock.c_str(), times, 0) == 0);
  const auto pinned = pinned_at(place);
  CHECK(pinned.modified < WallTime{});
  CHECK(judge(pinned, place, {}).file_age.value_or(std::chrono::milliseconds{0}) > std::chrono::hours{24 * 365 * 200});
}

TEST_CASE("a pinned inode's number is not used again") {
  const TemporaryDirectory directory;
  plant(directory / "s.lock", "{}");
  const auto pinned = pinned_at(place_in(directory.path(), "s.lock"));
  fs::remove(directory / "s.lock");
  for (int i = 0; i < 50; ++i) {
    plant(directory / std::to_string(i), "{}");
    CHECK(inode_of(directory / std::to_string(i)) != pinned.file.inode);
  }
}

TEST_CASE("a lock is read at one go, and one that grew since its size was asked for to its end") {
  // Protects: `is_whole` in `read_content`, both halves.
  const TemporaryDirectory directory;
  const Place place = place_in(directory.path(), "s.lock");
  const std::string begun = "{\"pid\": 41";
  const std::string rest = "237, \"createdAt\": \"2024-05-06T07:08:09.010Z\", \"label\": \"a long word\"}";
  for (const bool grows : {false, true}) {
    fs::remove(directory / "s.lock");
    plant(directory / "s.lock", grows ? begun : begun + rest);
    int reads = 0;
    const Script script([&](const sys::CallInfo& info) {
      if (is(info, sys::Call::pread) && reads++ == 0 && grows) {
        std::ofstream(directory / "s.lock", std::ios::app) << rest;
      }
      return 0;
    });
    const auto pinned = pin(place);
    REQUIRE((pinned && pinned->has_value()));
    CHECK((*pinned)->content->record.pid == 41237);
    CHECK((*pinned)->content->record.label == "a long word");
    CHECK((grows || reads == 1));
  }
}

TEST_CASE("only a write lock on the witness byte is a witness") {
  const TemporaryDirectory directory;
  plant(directory / "s.lock", "{}");
  const PinnedLock pinned = pinned_at(place_in(directory.path(), "s.lock"));
  const SecondDescription other(directory / "s.lock");
  const auto lock_as = [&other](short type, std::int64_t offset) {
    struct flock range {};
    range.l_type = type;
    range.l_start = offset;
    range.l_len = 1;
    REQUIRE(::fcntl(other.fd(), F_OFD_SETLK, &range) == 0);
  };
  lock_as(F_RDLCK, k_witness_offset);
  CHECK(query_witness(pinned).query == WitnessQuery::not_locked);
  lock_as(F_WRLCK, k_witness_offset + 1);
  CHECK(query_witness(pinned).query == WitnessQuery::not_locked);
  lock_as(F_WRLCK, k_witness_offset);
  CHECK(query_witness(pinned).query == WitnessQuery::write_locked);
}

TEST_CASE("a holder sees a waiter's mark until the waiter is gone, and never its own") {
  const TemporaryDirectory directory;
  const Place place = place_in(directory.path(), "s.lock");
  const FileSystemTraits& traits = *place.directory->traits;
  const auto lock = published(place);
  CHECK(!has_waiting_mark(lock.fd.get(), traits));
  {
    const auto first = pinned_at(place);
    const auto second = pinned_at(place);
    mark_waiting(first.fd.get(), traits);
    mark_waiting(second.fd.get(), traits);
    CHECK(has_waiting_mark(lock.fd.get(), traits));
    CHECK(query_witness(pinned_at(place)).query == WitnessQuery::write_locked);
  }
  CHECK(!has_waiting_mark(lock.fd.get(), traits));
}
