#include <sessionlock/sweep.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <iterator>
#include <limits>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <sessionlock/lock_manager.hpp>
#include <sessionlock/process_identity.hpp>

#include "process.hpp"
#include "protocol/lock_file.hpp"
#include "sanitizers.hpp"
#include "script.hpp"
#include "system/system.hpp"
#include "text/timestamp.hpp"

using namespace sessionlock;
using namespace sessionlock::test;
namespace fs = std::filesystem;

namespace {

constexpr pid_t k_nobody = std::numeric_limits<pid_t>::max();  // beyond every kernel's pid_max

std::string now_text() {
  return format_rfc3339(sys::wall_clock());
}

/// A lock as another program writes it.
std::string record_of(pid_t pid, std::optional<std::uint64_t> start = std::nullopt) {
  LockRecord record;
  record.pid = pid;
  record.created_at = now_text();
  record.starttime = start;
  return format_lock_record(record);
}

std::string dead_record() {
  return record_of(k_nobody);
}

std::string live_record() {
  return record_of(::getppid(), process_start_time(::getppid()));
}

void make_old(const fs::path& path, std::chrono::seconds age) {
  const auto then = std::chrono::system_clock::now() - age;
  const struct timespec times[2] = {{std::chrono::system_clock::to_time_t(then), 0},
                                    {std::chrono::system_clock::to_time_t(then), 0}};
  REQUIRE(::utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW) == 0);
}

SweepReport must(Result<SweepReport> result) {
  return value_or_throw(std::move(result));
}

std::vector<std::string> names(const std::vector<Inspection>& locks) {
  std::vector<std::string> result;
  std::transform(locks.begin(), locks.end(), std::back_inserter(result),
                 [](const Inspection& lock) { return lock.lock_path.filename().string(); });
  return result;
}

std::map<std::string, Error> by_name(const std::vector<Error>& errors) {
  std::map<std::string, Error> result;
  for (const Error& error : errors) {
    result[error.path.filename().string()] = error;
  }
  return result;
}

bool is_there(const fs::path& path) {
  return fs::symlink_status(path).type() != fs::file_type::not_found;
}

using Names = std::vector<std::string>;

const SweepOptions k_only_look{.remove = false};

}  // namespace

// --- which files -----------------------------------------------------------------------------------------------------

TEST_CASE("a sweep looks only at *.jsonl.lock") {
  TemporaryDirectory directory;
  for (const auto* name : {"a.jsonl.lock", "b.jsonl", "c.lock", "d.jsonl.lock.bak", "e.jsonl_lock", ".jsonl.lock"}) {
    write_text(directory / name, dead_record());
  }
  const auto report = must(sweep(directory.path()));
  CHECK(names(report.locks) == Names{".jsonl.lock", "a.jsonl.lock"});
  CHECK(report.errors.empty());
  CHECK(is_there(directory / "b.jsonl"));
  CHECK(is_there(directory / "c.lock"));
  CHECK(is_there(directory / "d.jsonl.lock.bak"));
}

TEST_CASE("another suffix can be asked for") {
  TemporaryDirectory directory;
  write_text(directory / "a.jsonl.lock", dead_record());
  write_text(directory / "b.log.lock", dead_record());
  const auto report = must(sweep(directory.path(), {.suffix = ".log.lock"}));
  CHECK(names(report.removed) == Names{"b.log.lock"});
  CHECK(is_there(directory / "a.jsonl.lock"));
}

TEST_CASE("a sweep without a suffix would take every file for a lock, and is refused") {
  TemporaryDirectory directory;
  write_text(directory / "precious", "");
  const auto report = sweep(directory.path(), {.suffix = ""});
  REQUIRE_FALSE(report);
  CHECK(report.error().code == Errc::invalid_argument);
  CHECK(is_there(directory / "precious"));
  CHECK(sweep("").error().code == Errc::invalid_argument);
}

TEST_CASE("locks are sorted by path") {
  TemporaryDirectory directory;
  fs::create_directories(directory / "a");
  fs::create_directories(directory / "b" / "c");
  for (const auto* name : {"z.jsonl.lock", "a.jsonl.lock", "a/y.jsonl.lock", "a/x.jsonl.lock", "b/c/m.jsonl.lock",
                           "B.jsonl.lock", "b/k.jsonl.lock", "\xc3\xa4.jsonl.lock"}) {
    write_text(directory / name, live_record());
  }
  const auto report = must(sweep(directory.path(), {.recursive = true}));
  CHECK(report.locks.size() == 8);
  CHECK(std::is_sorted(report.locks.begin(), report.locks.end(),
                       [](const Inspection& a, const Inspection& b) { return a.lock_path < b.lock_path; }));
}

TEST_CASE("a lock whose path begins with another's comes after it, and after what lies in a directory of that name") {
  TemporaryDirectory directory;
  for (const auto* name : {"a.lock.lock", "a.lock", "a.lockx.lock"}) {
    write_text(directory / name, live_record());
  }
  fs::create_directory(directory / "a.lock.lock.d");
  write_text(directory / "a.lock.lock.d" / "z.lock", live_record());
  const auto report = must(sweep(directory.path(), {.remove = false, .recursive = true, .suffix = ".lock"}));
  CHECK(names(report.locks) == Names{"a.lock", "a.lock.lock", "z.lock", "a.lockx.lock"});
}

TEST_CASE("a lock whose name is the suffix alone belongs to no session") {
  TemporaryDirectory directory;
  write_text(directory / ".lock", live_record());
  const auto report = must(sweep(directory.path(), {.remove = false, .suffix = ".lock"}));
  REQUIRE(names(report.locks) == Names{".lock"});
  CHECK(report.locks.front().session_path.empty());
}

TEST_CASE("a directory that goes while it is swept is an empty report") {
  TemporaryDirectory directory;
  fs::create_directory(directory / "going");
  const Script script([&](const sys::CallInfo& info) {
    if (info.call == sys::Call::getdents64) {
      fs::remove(directory / "going");
    }
    return 0;
  });
  const auto report = must(sweep(directory / "going", {.recursive = true}));
  CHECK(report.locks.empty());
  CHECK(report.errors.empty());
}

TEST_CASE("a directory whose path leads to a file by the time its subdirectories are listed is an error") {
  TemporaryDirectory directory;
  fs::create_directory(directory / "d");
  write_text(directory / "d" / "a.jsonl.lock", dead_record());
  const Script script([&](const sys::CallInfo& info) {
    if (info.call == sys::Call::getdents64 && !is_there(directory / "moved")) {
      fs::rename(directory / "d", directory / "moved");
      write_text(directory / "d", "");
    }
    return 0;
  });
  const auto report = must(sweep(directory / "d", {.recursive = true}));
  CHECK(names(report.removed) == Names{"a.jsonl.lock"});
  REQUIRE(report.errors.size() == 1);
  CHECK(report.errors[0].code == std::errc::not_a_directory);
  CHECK(report.errors[0].path == directory / "d");
}

TEST_CASE("a missing directory is an empty report") {
  TemporaryDirectory directory;
  const auto report = must(sweep(directory / "none" / "such", {.recursive = true}));
  CHECK(report.locks.empty());
  CHECK(report.removed.empty());
  CHECK(report.errors.empty());
}

TEST_CASE("a directory that is none, or cannot be read, is an error") {
  TemporaryDirectory directory;
  write_text(directory / "file", "");
  const auto none = sweep(directory / "file");
  REQUIRE_FALSE(none);
  CHECK(none.error().code == std::errc::not_a_directory);
  CHECK(none.error().path == directory / "file");

  const Script script([](const sys::CallInfo& info) { return info.call == sys::Call::getdents64 ? EIO : 0; });
  const auto unread = sweep(directory.path());
  REQUIRE_FALSE(unread);
  CHECK(unread.error().code == std::errc::io_error);
  CHECK(unread.error().operation == "getdents64");
  CHECK(unread.error().path == directory.path());
}

TEST_CASE("recursion finds the locks below") {
  TemporaryDirectory directory;
  fs::create_directories(directory / "one" / "two" / "three");
  for (const auto* name : {"a.jsonl.lock", "one/b.jsonl.lock", "one/two/three/c.jsonl.lock"}) {
    write_text(directory / name, dead_record());
  }
  CHECK(names(must(sweep(directory.path(), k_only_look)).locks) == Names{"a.jsonl.lock"});
  const auto report = must(sweep(directory.path(), {.recursive = true}));
  CHECK(names(report.removed) == Names{"a.jsonl.lock", "b.jsonl.lock", "c.jsonl.lock"});
  CHECK(report.removed.back().lock_path == directory / "one" / "two" / "three" / "c.jsonl.lock");
  CHECK(report.removed.back().session_path == directory / "one" / "two" / "three" / "c.jsonl");
  CHECK_FALSE(is_there(directory / "one" / "two" / "three" / "c.jsonl.lock"));
}

TEST_CASE("a sweep does not follow symbolic links out of the tree") {
  TemporaryDirectory directory;
  TemporaryDirectory elsewhere;
  write_text(elsewhere / "a.jsonl.lock", dead_record());
  fs::create_directory_symlink(elsewhere.path(), directory / "link");
  fs::create_directory_symlink(directory.path(), directory / "loop");
  const auto report = must(sweep(directory.path(), {.recursive = true}));
  CHECK(report.locks.empty());
  CHECK(report.errors.empty());
  CHECK(is_there(elsewhere / "a.jsonl.lock"));
}

TEST_CASE("a directory that turns into a symbolic link meanwhile is not followed") {
  TemporaryDirectory directory;
  TemporaryDirectory elsewhere;
  write_text(elsewhere / "a.jsonl.lock", dead_record());
  fs::create_directory(directory / "below");
  {
    const Script script([&](const sys::CallInfo& info) {
      if (is_call_on(info, sys::Call::openat, "below")) {
        fs::remove(directory / "below");
        fs::create_directory_symlink(elsewhere.path(), directory / "below");
      }
      return 0;
    });
    const auto report = must(sweep(directory.path(), {.recursive = true}));
    CHECK(report.locks.empty());
    CHECK(report.errors.empty());
  }
  CHECK(is_there(elsewhere / "a.jsonl.lock"));
}

TEST_CASE("a directory that vanishes meanwhile ends nothing") {
  TemporaryDirectory directory;
  fs::create_directory(directory / "_a");
  fs::create_directory(directory / "b");
  write_text(directory / "_a" / "a.jsonl.lock", live_record());
  write_text(directory / "b" / "b.jsonl.lock", live_record());
  const Script script([&](const sys::CallInfo& info) {
    if (is_call_on(info, sys::Call::openat, "_a")) {
      fs::remove_all(directory / "_a");
    }
    return 0;
  });
  const auto report = must(sweep(directory.path(), {.recursive = true}));
  CHECK(names(report.locks) == Names{"b.jsonl.lock"});
  CHECK(report.errors.empty());
}

TEST_CASE("a directory that cannot be read is an error, and the others are swept") {
  TemporaryDirectory directory;  // whose name may end with any letter, but not with these
  for (const auto* name : {"_a", "_b", "_c"}) {
    fs::create_directory(directory / name);
    write_text(directory / name / "x.jsonl.lock", dead_record());
  }
  const Script script([](const sys::CallInfo& info) { return is_call_on(info, sys::Call::openat, "_b") ? EACCES : 0; });
  const auto report = must(sweep(directory.path(), {.recursive = true}));
  CHECK(report.removed.size() == 2);
  REQUIRE(report.errors.size() == 1);
  CHECK(report.errors.front().code == std::errc::permission_denied);
  CHECK(report.errors.front().path == directory / "_b");
}

// --- what becomes of them --------------------------------------------------------------------------------------------

TEST_CASE("a dead owner's lock is removed and a live one's is kept") {
  TemporaryDirectory directory;
  write_text(directory / "dead.jsonl.lock", dead_record());
  write_text(directory / "live.jsonl.lock", live_record());
  const auto report = must(sweep(directory.path()));
  CHECK(names(report.locks) == Names{"dead.jsonl.lock", "live.jsonl.lock"});
  CHECK(names(report.removed) == Names{"dead.jsonl.lock"});
  CHECK(report.locks[0].removed);
  CHECK_FALSE(report.locks[1].removed);
  CHECK(report.locks[1].state == LockState::held);
  CHECK(report.locks[1].basis == Basis::verified);
  CHECK_FALSE(is_there(directory / "dead.jsonl.lock"));
  CHECK(is_there(directory / "live.jsonl.lock"));
}

TEST_CASE("a recycled pid's lock is removed") {
  TemporaryDirectory directory;
  write_text(directory / "a.jsonl.lock", record_of(::getppid(), 1 + process_start_time(::getppid()).value_or(0)));
  const auto report = must(sweep(directory.path()));
  REQUIRE(report.removed.size() == 1);
  CHECK(report.removed[0].reasons.front() == StaleReason::recycled_pid);
}

TEST_CASE("a fresh malformed lock is kept and an aged one is removed") {
  TemporaryDirectory directory;
  for (const auto* name : {"fresh-empty", "fresh-object", "old-empty", "old-object", "old-garbage"}) {
    write_text(directory / (std::string(name) + ".jsonl.lock"), std::string_view(name).ends_with("object")    ? "{}"
                                                                : std::string_view(name).ends_with("garbage") ? "\0\0{"
                                                                                                              : "");
    if (name[0] == 'o') {
      make_old(directory / (std::string(name) + ".jsonl.lock"), std::chrono::minutes{5});
    }
  }
  const auto report = must(sweep(directory.path()));
  CHECK(names(report.removed) == Names{"old-empty.jsonl.lock", "old-garbage.jsonl.lock", "old-object.jsonl.lock"});
  CHECK(report.removed[0].reasons.front() == StaleReason::missing_pid);
  CHECK(report.locks[0].state == LockState::pending);
  CHECK(is_there(directory / "fresh-empty.jsonl.lock"));
  CHECK(is_there(directory / "fresh-object.jsonl.lock"));
}

TEST_CASE("a malformed start time is never a reason to remove a live owner's lock") {
  TemporaryDirectory directory;
  const std::string start = R"({"pid": )" + std::to_string(::getppid()) + R"(, "createdAt": ")" + now_text() + "\", ";
  int n = 0;
  for (const auto* value : {"123.5", "-1", "\"123\"", "null", "true", "[1]", "1e400", "12345678901234567890123"}) {
    const auto path = directory / (std::to_string(++n) + ".jsonl.lock");
    write_text(path, start + "\"starttime\": " + value + "}");
    make_old(path, std::chrono::hours{24 * 365});
  }
  const auto report = must(sweep(directory.path()));
  CHECK(report.locks.size() == 8);
  CHECK(report.removed.empty());
}

TEST_CASE("a lock this process holds is never swept, whatever its age") {
  TemporaryDirectory directory;
  LockManager manager;
  auto lock = value_or_throw(manager.try_acquire(directory / "a.jsonl"));
  make_old(lock.lock_path(), std::chrono::hours{24 * 365});
  const SweepOptions ruthless{.stale = {.stale_after = std::chrono::milliseconds{0},
                                        .malformed_grace = std::chrono::milliseconds{0},
                                        .unknown_owner = UnknownOwner::reclaim_when_aged}};
  SUBCASE("as it is") {}
  SUBCASE("with its record destroyed") {
    write_text(lock.lock_path(), "{}");
  }
  const auto report = must(sweep(directory.path(), ruthless));
  REQUIRE(report.locks.size() == 1);
  CHECK(report.locks[0].basis == Basis::held_here);
  CHECK(report.removed.empty());
  CHECK(lock.verify());
}

TEST_CASE("an aged legacy lock goes or stays as the policy says") {
  TemporaryDirectory directory;
  LockRecord record;
  record.pid = ::getppid();
  record.created_at = "2020-01-01T00:00:00Z";
  write_text(directory / "a.jsonl.lock", format_lock_record(record));
  make_old(directory / "a.jsonl.lock", std::chrono::hours{1});
  SweepOptions options;
  options.stale.aged_unverified = AgedUnverified::keep;
  CHECK(must(sweep(directory.path(), options)).removed.empty());
  options.stale.aged_unverified = AgedUnverified::reclaim;
  CHECK(must(sweep(directory.path(), options)).removed.size() == 1);
}

TEST_CASE("the report says what was removed and why") {
  TemporaryDirectory directory;
  LockRecord record;
  record.pid = k_nobody;
  record.created_at = "2020-01-01T00:00:00.000Z";
  record.starttime = 4711;
  record.label = "nightly";
  write_text(directory / "run.jsonl.lock", format_lock_record(record));
  make_old(directory / "run.jsonl.lock", std::chrono::hours{1});
  const auto report = must(sweep(directory.path()));
  REQUIRE(report.removed.size() == 1);
  const Inspection& removed = report.removed[0];
  CHECK(removed.session_path == directory / "run.jsonl");
  CHECK(removed.lock_path == directory / "run.jsonl.lock");
  CHECK(removed.record == record);
  CHECK(removed.owner == OwnerState::dead);
  CHECK(removed.state == LockState::stale);
  CHECK(removed.removable);
  CHECK(removed.removed);
  CHECK(removed.reasons == std::vector{StaleReason::dead_pid, StaleReason::too_old});
  CHECK_FALSE(removed.explanation().empty());
}

TEST_CASE("a lock in a lock directory tells its session's path") {
  TemporaryDirectory directory;
  LockRecord record;
  record.pid = k_nobody;
  record.session = "/somewhere/else/run.jsonl";
  write_text(directory / "0b0a7e0e-2f0c-5a5b-8d1f-6a1d6c0a9f11-run.jsonl.lock", format_lock_record(record));
  const auto report = must(sweep(directory.path()));
  REQUIRE(report.removed.size() == 1);
  CHECK(report.removed[0].session_path == "/somewhere/else/run.jsonl");
}

TEST_CASE("a dry run changes nothing") {
  TemporaryDirectory directory;
  write_text(directory / "dead.jsonl.lock", dead_record());
  write_text(directory / ".dead.jsonl.lock.0123456789abcdef0123456789abcdef.tmp", "");
  make_old(directory / ".dead.jsonl.lock.0123456789abcdef0123456789abcdef.tmp", std::chrono::hours{1});
  const Script script([](const sys::CallInfo& info) {
    CHECK(info.call != sys::Call::unlinkat);
    CHECK(info.call != sys::Call::flock);
    return 0;
  });
  const auto report = must(sweep(directory.path(), k_only_look));
  REQUIRE(report.locks.size() == 1);
  CHECK(report.locks[0].removable);
  CHECK_FALSE(report.locks[0].removed);
  CHECK(report.removed.empty());
  CHECK(is_there(directory / "dead.jsonl.lock"));
  CHECK(is_there(directory / ".dead.jsonl.lock.0123456789abcdef0123456789abcdef.tmp"));
}

// --- what goes wrong -------------------------------------------------------------------------------------------------

TEST_CASE("one failing entry does not end the sweep: hostile nodes are named and left in place") {
  TemporaryDirectory directory;
  write_text(directory / "target", dead_record());
  fs::create_symlink("target", directory / "b-link.jsonl.lock");
  fs::create_symlink("nowhere", directory / "c-dangling.jsonl.lock");
  fs::create_directory(directory / "d-directory.jsonl.lock");
  REQUIRE(::mkfifo((directory / "e-fifo.jsonl.lock").c_str(), 0600) == 0);
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_un address {};
  address.sun_family = AF_UNIX;
  (directory / "f-socket.jsonl.lock").native().copy(address.sun_path, sizeof address.sun_path - 1);
  REQUIRE(::bind(fd, reinterpret_cast<const struct sockaddr*>(&address), sizeof address) == 0);
  ::close(fd);
  write_text(directory / "g-long.jsonl.lock", std::string(k_lock_record_bytes_max + 1, ' '));
  write_text(directory / "a-dead.jsonl.lock", dead_record());
  write_text(directory / "z-dead.jsonl.lock", dead_record());

  const auto report = must(sweep(directory.path(), {.recursive = true}));
  CHECK(names(report.removed) == Names{"a-dead.jsonl.lock", "z-dead.jsonl.lock"});
  CHECK(report.locks.size() == 2);
  const auto errors = by_name(report.errors);
  CHECK(errors.size() == 6);
  for (const auto& named : errors) {
    CAPTURE(named.first);
    CHECK(named.second.code == Errc::not_a_lock_file);
    CHECK(is_there(directory / named.first));
  }
}

TEST_CASE("a lock that cannot be read is listed, kept, and an error") {
  TemporaryDirectory directory;
  write_text(directory / "a.jsonl.lock", dead_record());
  write_text(directory / "b.jsonl.lock", dead_record());
  const Script script(
      [](const sys::CallInfo& info) { return is_call_on(info, sys::Call::openat, "a.jsonl.lock") ? EACCES : 0; });
  const auto report = must(sweep(directory.path()));
  CHECK(names(report.locks) == Names{"a.jsonl.lock", "b.jsonl.lock"});
  CHECK(report.locks[0].basis == Basis::unreadable);
  CHECK(report.locks[0].owner == OwnerState::unknown);
  CHECK(names(report.removed) == Names{"b.jsonl.lock"});
  REQUIRE(report.errors.size() == 1);
  CHECK(report.errors[0].code == std::errc::permission_denied);
  CHECK(report.errors[0].path == directory / "a.jsonl.lock");
}

TEST_CASE("a lock that cannot be removed is kept, and an error") {
  TemporaryDirectory directory;
  write_text(directory / "a.jsonl.lock", dead_record());
  write_text(directory / "b.jsonl.lock", dead_record());
  const Script script(
      [](const sys::CallInfo& info) { return is_call_on(info, sys::Call::unlinkat, "a.jsonl.lock") ? EPERM : 0; });
  const auto report = must(sweep(directory.path()));
  CHECK(report.locks.size() == 2);
  CHECK_FALSE(report.locks[0].removed);
  CHECK(report.locks[0].removable);
  CHECK(names(report.removed) == Names{"b.jsonl.lock"});
  REQUIRE(report.errors.size() == 1);
  CHECK(report.errors[0].operation == "remove");
  CHECK(report.errors[0].code == std::errc::operation_not_permitted);
  CHECK(report.locks[0].obstacle == std::errc::operation_not_permitted);
  CHECK(report.errors[0].path == directory / "a.jsonl.lock");
}

TEST_CASE("a lock that vanishes between listing and opening is not reported") {
  TemporaryDirectory directory;
  write_text(directory / "a.jsonl.lock", dead_record());
  write_text(directory / "b.jsonl.lock", dead_record());
  const Script script([&](const sys::CallInfo& info) {
    if (is_call_on(info, sys::Call::openat, "a.jsonl.lock")) {
      fs::remove(directory / "a.jsonl.lock");
    }
    return 0;
  });
  const auto report = must(sweep(directory.path()));
  CHECK(names(report.locks) == Names{"b.jsonl.lock"});
  CHECK(report.errors.empty());
}

TEST_CASE("a lock that somebody else removes or replaces before us is theirs") {
  TemporaryDirectory directory;
  write_text(directory / "a.jsonl.lock", dead_record());
  bool replaced = false;
  bool with_another = false;
  SUBCASE("removed") {}
  SUBCASE("replaced by a live owner's") {
    with_another = true;
  }
  const Script script([&](const sys::CallInfo& info) {
    if (info.call == sys::Call::flock && !std::exchange(replaced, true)) {
      fs::remove(directory / "a.jsonl.lock");
      if (with_another) {
        write_text(directory / "a.jsonl.lock", live_record());
      }
    }
    return 0;
  });
  const auto report = must(sweep(directory.path()));
  CHECK(replaced);
  CHECK(report.removed.empty());
  CHECK(report.errors.empty());
  CHECK(report.locks.size() == (with_another ? 1 : 0));
  CHECK(is_there(directory / "a.jsonl.lock") == with_another);
  if (with_another) {
    CHECK(report.locks[0].state == LockState::held);
  }
}

TEST_CASE("a lock that is replaced again and again does not hang a sweep") {
  TemporaryDirectory directory;
  const auto path = directory / "a.jsonl.lock";
  write_text(path, dead_record());
  const Script script([&](const sys::CallInfo& info) {
    if (info.call == sys::Call::flock) {
      write_text(directory / "next", dead_record());
      fs::rename(directory / "next", path);
    }
    return 0;
  });
  const auto report = must(sweep(directory.path()));
  REQUIRE(report.locks.size() == 1);
  CHECK_FALSE(report.locks[0].removed);
  CHECK(is_there(path));
}

TEST_CASE("a lock that turns out alive under the last look is spared") {
  TemporaryDirectory directory;
  const auto path = directory / "a.jsonl.lock";
  write_text(path, dead_record());
  const Script script([&](const sys::CallInfo& info) {
    if (info.call == sys::Call::flock) {
      write_text(path, live_record());  // in place: the same inode
    }
    return 0;
  });
  const auto report = must(sweep(directory.path()));
  REQUIRE(report.locks.size() == 1);
  CHECK(report.locks[0].state == LockState::held);
  CHECK(report.locks[0].owner == OwnerState::alive);
  CHECK_FALSE(report.locks[0].removable);
  CHECK(report.removed.empty());
  CHECK(is_there(path));
}

TEST_CASE("a lock that another remover has is left to it") {
  TemporaryDirectory directory;
  const auto path = directory / "a.jsonl.lock";
  write_text(path, dead_record());
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  REQUIRE(::flock(fd, LOCK_EX) == 0);
  const auto busy = must(sweep(directory.path()));
  CHECK(busy.locks.size() == 1);
  CHECK(busy.removed.empty());
  CHECK(busy.errors.empty());
  CHECK(is_there(path));
  ::close(fd);
  CHECK(must(sweep(directory.path())).removed.size() == 1);
}

TEST_CASE("what was remembered of a pid removes no lock") {
  // The pid dies, is asked about, and is given out again, all within one sweep.
  auto child = ChildProcess::run([](Channel& parent) { return parent.hear() ? 0 : 1; });
  TemporaryDirectory directory;
  for (const auto* name : {"a", "b", "c"}) {
    write_text(directory / (std::string(name) + ".jsonl.lock"), record_of(child.pid()));
  }
  int asked = 0;
  const Script script(
      [&](const sys::CallInfo& info) { return info.call == sys::Call::kill && ++asked == 1 ? ESRCH : 0; });
  const auto report = must(sweep(directory.path()));
  CHECK(report.locks.size() == 3);
  CHECK(report.removed.empty());  // protected by `last_look_`, which remembers nothing
  child.tell("end");
}

TEST_CASE("a pid is asked about once for all its locks") {
  TemporaryDirectory directory;
  for (int i = 0; i < 20; ++i) {
    write_text(directory / (std::to_string(i) + ".jsonl.lock"), i % 2 == 0 ? live_record() : dead_record());
  }
  int asked = 0;
  const Script script([&](const sys::CallInfo& info) {
    asked += info.call == sys::Call::kill ? 1 : 0;
    return 0;
  });
  CHECK(must(sweep(directory.path(), k_only_look)).locks.size() == 20);
  CHECK(asked == 2);
}

TEST_CASE("whichever call fails, a sweep leaks nothing and removes no live lock") {
  bool failed_once = true;
  for (int nth = 1; failed_once; ++nth) {
    for (const int error : {EIO, EMFILE, EACCES}) {
      CAPTURE(nth);
      CAPTURE(error);
      TemporaryDirectory directory;
      fs::create_directory(directory / "below");
      write_text(directory / "a.jsonl.lock", dead_record());
      write_text(directory / "below" / "b.jsonl.lock", live_record());
      write_text(directory / "c.jsonl.lock", "{}");
      write_text(directory / ".c.jsonl.lock.0123456789abcdef0123456789abcdef.tmp", "");
      make_old(directory / ".c.jsonl.lock.0123456789abcdef0123456789abcdef.tmp", std::chrono::hours{1});
      const std::size_t descriptors = sys::open_descriptor_count();
      failed_once = false;
      {
        int calls = 0;
        const Script script([&](const sys::CallInfo&) {
          if (++calls != nth) {
            return 0;
          }
          failed_once = true;
          return error;
        });
        const auto report = sweep(directory.path(), {.recursive = true});
        if (!report) {
          CHECK_FALSE(report.error().operation.empty());
          CHECK_FALSE(report.error().path.empty());
        }
      }
      CHECK(sys::open_descriptor_count() == descriptors);
      CHECK(is_there(directory / "below" / "b.jsonl.lock"));
      CHECK(is_there(directory / "c.jsonl.lock"));
    }
  }
}

// --- temporary files -------------------------------------------------------------------------------------------------

TEST_CASE("unfinished locks that nobody will finish are removed, and none that is new by its own clock") {
  TemporaryDirectory directory;
  const std::string digits = "0123456789abcdef0123456789abcdef";
  const auto make = [&](const std::string& name, std::chrono::seconds age) {
    write_text(directory / name, "");
    make_old(directory / name, age);
    return directory / name;
  };
  const auto old = std::chrono::minutes{11};
  const auto left_over = make(".a.jsonl.lock." + digits + ".tmp", old);
  const auto young = make(".b.jsonl.lock." + digits + ".tmp", std::chrono::minutes{9});
  const auto locked = make(".c.jsonl.lock." + digits + ".tmp", old);
  const auto other_suffix = make(".d.log.lock." + digits + ".tmp", old);
  const auto short_id = make(".e.jsonl.lock." + digits.substr(1) + ".tmp", old);
  const auto long_id = make(".f.jsonl.lock.0" + digits + ".tmp", old);
  const auto no_dot = make("g.jsonl.lock." + digits + ".tmp", old);
  const auto capitals = make(".h.jsonl.lock.0123456789ABCDEF0123456789ABCDEF.tmp", old);
  const auto no_tmp = make(".i.jsonl.lock." + digits + ".temp", old);
  const auto from_the_future = make(".j.jsonl.lock." + digits + ".tmp", -std::chrono::hours{1});
  const auto is_directory = directory / (".k.jsonl.lock." + digits + ".tmp");
  fs::create_directory(is_directory);
  const auto is_link = directory / (".l.jsonl.lock." + digits + ".tmp");
  fs::create_symlink(young, is_link);
  const auto is_fifo = directory / (".m.jsonl.lock." + digits + ".tmp");
  REQUIRE(::mkfifo(is_fifo.c_str(), 0600) == 0);
  for (const auto& path : {is_directory, is_link, is_fifo}) {
    make_old(path, old);
  }
  const auto publisher = sys::open(AT_FDCWD, locked.c_str(), O_RDWR);
  REQUIRE(sys::ofd_set_lock(publisher.fd.get(), F_WRLCK, k_witness_offset).ok());

  const auto report = must(sweep(directory.path()));
  CHECK(report.locks.empty());
  CHECK(report.errors.empty());
  CHECK_FALSE(is_there(left_over));
  for (const auto& kept : {young, from_the_future, locked, other_suffix, short_id, long_id, no_dot, capitals, no_tmp,
                           is_directory, is_link, is_fifo}) {
    CAPTURE(kept);
    CHECK(is_there(kept));
  }
}

TEST_CASE("an unfinished lock that goes by itself is no error") {
  TemporaryDirectory directory;
  const auto path = directory / ".a.jsonl.lock.0123456789abcdef0123456789abcdef.tmp";
  for (const auto call : {sys::Call::openat, sys::Call::unlinkat}) {
    write_text(path, "");
    make_old(path, std::chrono::minutes{11});
    bool was_there = false;
    const Script script([&](const sys::CallInfo& info) {
      if (is_call_on(info, call, ".tmp")) {
        was_there = fs::remove(path) || was_there;
      }
      return 0;
    });
    CHECK(must(sweep(directory.path())).errors.empty());
    CHECK(was_there);
  }
}

TEST_CASE("an unfinished lock goes also where locks cannot be asked about") {
  TemporaryDirectory directory;
  const auto path = directory / ".a.jsonl.lock.0123456789abcdef0123456789abcdef.tmp";
  write_text(path, "");
  make_old(path, std::chrono::minutes{11});
  const Script script([](const sys::CallInfo& info) { return info.call == sys::Call::ofd_getlk ? EINVAL : 0; });
  CHECK(must(sweep(directory.path())).errors.empty());
  CHECK_FALSE(is_there(path));
}

// --- progress and size -----------------------------------------------------------------------------------------------

TEST_CASE("progress is told now and then, and at the end") {
  TemporaryDirectory directory;
  for (int i = 0; i < 150; ++i) {
    write_text(directory / (std::to_string(i) + ".jsonl.lock"), dead_record());
  }
  std::vector<std::pair<std::size_t, std::size_t>> told;
  SweepOptions options{.progress = [&](std::size_t done, std::size_t total) {
    told.emplace_back(done, total);
    // Under no lock of the library.
    CHECK(LockManager{}.try_acquire(directory / "other.jsonl"));
  }};
  CHECK(must(sweep(directory.path(), options)).removed.size() == 150);
  CHECK(told == std::vector<std::pair<std::size_t, std::size_t>>{{64, 150}, {128, 150}, {150, 150}});
}

TEST_CASE("the end is told once") {
  TemporaryDirectory directory;
  for (int i = 0; i < 64; ++i) {
    write_text(directory / (std::to_string(i) + ".jsonl.lock"), live_record());
  }
  int told = 0;
  CHECK(must(sweep(directory.path(), {.progress = [&](std::size_t, std::size_t) { ++told; }})).locks.size() == 64);
  CHECK(told == 1);
}

TEST_CASE("what progress throws is dropped, so that every removal is in the report") {
  TemporaryDirectory directory;
  for (int i = 0; i < 100; ++i) {
    write_text(directory / (std::to_string(i) + ".jsonl.lock"), dead_record());
  }
  int calls = 0;
  const SweepOptions options{.progress = [&](std::size_t, std::size_t) {
    ++calls;
    throw std::runtime_error("enough");
  }};
  CHECK(must(sweep(directory.path(), options)).removed.size() == 100);
  CHECK(calls == 2);
}

// --- many ------------------------------------------------------------------------------------------------------------

TEST_CASE("a sweep runs in the calling thread alone, however many locks there are") {
  const TemporaryDirectory directory;
  const auto record = live_record();
  for (int i = 0; i < 3000; ++i) {
    write_text(directory / (std::to_string(i) + ".jsonl.lock"), record);
  }
  std::atomic<bool> others{false};
  const Script script([&, own = std::this_thread::get_id()](const sys::CallInfo&) {
    others = others || std::this_thread::get_id() != own;
    return 0;
  });
  CHECK(must(sweep(directory.path(), k_only_look)).locks.size() == 3000);
  CHECK_FALSE(others);
}

TEST_CASE("100 000 entries do not exhaust memory, and cost as much each as a few") {
  constexpr std::size_t count = 100'000;
  const auto sweep_of = [](const fs::path& directory, std::size_t locks, std::size_t& calls) {
    for (std::size_t i = 0; i < locks; ++i) {
      const int fd =
          ::open((directory / (std::to_string(i) + ".jsonl.lock")).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
      const std::string text = i % 3 == 0 ? live_record() : i % 3 == 1 ? dead_record() : "{}";
      REQUIRE_IN_CHILD(::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
      ::close(fd);
    }
    std::atomic<std::size_t> made{0};
    const Script script([&](const sys::CallInfo&) {
      ++made;
      return 0;
    });
    const auto report = sweep(directory, k_only_look);
    calls = made.load();
    REQUIRE_IN_CHILD(report && report->locks.size() == locks && report->errors.empty());
  };
  const auto quick = TmpfsMount::mount("size=1g");  // or, where it is not to be had, a disk
  const TemporaryDirectory disk;
  const fs::path base = quick ? quick->path() : disk.path();
  auto child = ChildProcess::run([&](Channel& parent) {
    const fs::path few = base / "few";
    const fs::path many = base / "many";
    fs::create_directory(few);
    fs::create_directory(many);
    std::size_t calls_for_few = 0;
    std::size_t calls_for_many = 0;
    sweep_of(few, 1000, calls_for_few);
    struct rusage before {};
    struct rusage after {};
    ::getrusage(RUSAGE_SELF, &before);
    sweep_of(many, count, calls_for_many);
    ::getrusage(RUSAGE_SELF, &after);
    parent.tell(std::to_string((after.ru_maxrss - before.ru_maxrss) / static_cast<long>(count / 1024)));
    REQUIRE_IN_CHILD(calls_for_many < (calls_for_few + 10) * (count / 1000));
    return 0;
  });
  const auto bytes_each = std::stol(child.hear().value_or("-1"));
  CHECK(child.wait().exited_with(0));
  CAPTURE(bytes_each);
  CHECK(bytes_each > 0);
#if !SESSIONLOCK_ADDRESS_SANITIZER && !SESSIONLOCK_THREAD_SANITIZER  // which need many times the memory
  CHECK(bytes_each < 8192);
#endif
}
