// Sessions that several users share: who may read the lock, and what those are told who may not.

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <sessionlock/lock_manager.hpp>
#include <sessionlock/spawn_gate.hpp>
#include <sessionlock/transcript.hpp>

#include "lock_tools.hpp"
#include "process.hpp"
#include "script.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;

namespace {

// Users and groups that the machine need not know.
constexpr uid_t k_alice = 23451;
constexpr uid_t k_bob = 23452;
constexpr gid_t k_team = 23453;
constexpr gid_t k_strangers = 23454;

struct stat status_of(const fs::path& file) {
  struct stat status {};
  if (::lstat(file.c_str(), &status) != 0) {
    throw ProcessFailure("there is no " + file.string());
  }
  return status;
}
mode_t mode_of(const fs::path& file) {
  return status_of(file).st_mode & 07777;
}

/// A session in a directory that everybody may write.
struct SharedSession : Session {
  SharedSession() { fs::permissions(directory.path(), fs::perms(0777)); }
  void make(uid_t owner, gid_t group, mode_t mode) const {
    write_text(path, "");
    REQUIRE(::chown(path.c_str(), owner, group) == 0);
    REQUIRE(::chmod(path.c_str(), mode) == 0);
  }
};

bool is_root_or_skipped() {
  if (!can_become_second_user()) {
    skip_aloud("only root can be several users");
    return false;
  }
  return true;
}

/// Runs a body as another user to its end.
void as_user(uid_t user, gid_t group, const std::function<void()>& body) {
  CHECK(ChildProcess::run([&](Channel&) {
          become_user(user, group);
          body();
          return 0;
        })
            .wait()
            .exited_with(0));
}

/// A user takes the lock and is killed.
void leave_lock_of(uid_t user, gid_t group, const fs::path& session) {
  auto holder = ChildProcess::run([&](Channel& tester) {
    become_user(user, group);
    const auto lock = held(try_lock(session));
    tester.tell("held");
    (void)tester.hear();
    return 0;
  });
  holder.expect("held");
  (void)holder.kill();
}

ManagerOptions with_mode(mode_t mode) {
  ManagerOptions options;
  options.mode = mode;
  return options;
}

/// An access control list that lets one more user read and write, as the kernel has it
/// (<linux/posix_acl_xattr.h>). False: the file system has no such lists.
bool set_acl(const fs::path& file, const char* name) {
  constexpr std::uint32_t k_version = 2;
  constexpr std::uint32_t k_nobody = 0xffffffff;
  struct Entry {
    std::uint16_t tag;
    std::uint16_t permissions;
    std::uint32_t id;
  };
  const struct {
    std::uint32_t version;
    Entry entries[5];
  } list{k_version,
         {{0x01, 6, k_nobody}, {0x02, 6, k_bob}, {0x04, 6, k_nobody}, {0x10, 6, k_nobody}, {0x20, 0, k_nobody}}};
  if (::setxattr(file.c_str(), name, &list, sizeof list, 0) == 0) {
    return true;
  }
  REQUIRE(errno == EOPNOTSUPP);
  skip_aloud("this file system has no access control lists");
  return false;
}

}  // namespace

TEST_CASE("the lock of a session that nobody else may write is its owner's alone, and takes no call for that") {
  const SharedSession session;
  const std::set<sys::Call> calls_for_permissions{sys::Call::fchmod, sys::Call::fchown, sys::Call::fgetxattr,
                                                  sys::Call::lgetxattr};
  for (const mode_t mode : {0U, 0600U, 0640U, 0644U}) {
    CAPTURE(mode);
    if (mode != 0) {
      session.make(::getuid(), ::getgid(), mode);
    }
    int calls = 0;
    const Script script([&](const sys::CallInfo& info) {
      calls += static_cast<int>(calls_for_permissions.count(info.call));
      return 0;
    });
    const auto lock = held(try_lock(session.path));
    CHECK(mode_of(session.lock) == 0600);
    CHECK(calls == 0);
  }
}

TEST_CASE("the lock of a session that its group may write gets that group first, and then lets it read") {
  // Protects: the order in `set_permissions`.
  if (!is_root_or_skipped()) {
    return;
  }
  const SharedSession session;
  session.make(k_alice, k_team, 0660);
  std::vector<sys::Call> calls;
  const Script script([&](const sys::CallInfo& info) {
    if (info.call == sys::Call::fchown || info.call == sys::Call::fchmod) {
      struct stat status {};
      REQUIRE(::fstat(info.fd, &status) == 0);
      CHECK((status.st_mode & 07777) == 0600);
      CHECK((status.st_gid == k_team) == (info.call == sys::Call::fchmod));
      CHECK(!fs::exists(session.lock));
      calls.push_back(info.call);
    }
    return 0;
  });
  const auto lock = held(try_lock(session.path));
  CHECK(calls == std::vector{sys::Call::fchown, sys::Call::fchmod});
  CHECK(mode_of(session.lock) == 0640);
  CHECK(status_of(session.lock).st_gid == k_team);
  CHECK(status_of(session.lock).st_uid == ::geteuid());
}

TEST_CASE("a lock that has the session's group from its directory is not given it again") {
  if (!is_root_or_skipped()) {
    return;
  }
  const SharedSession session;
  session.make(k_alice, k_team, 0660);
  REQUIRE(::chown(session.directory.path().c_str(), 0, k_team) == 0);
  REQUIRE(::chmod(session.directory.path().c_str(), 02775) == 0);
  const Script script(failing(sys::Call::fchown, EIO));
  const auto lock = held(try_lock(session.path));
  CHECK(mode_of(session.lock) == 0640);
}

TEST_CASE("the lock of a session that everybody may write can be read by everybody") {
  const SharedSession session;
  session.make(::getuid(), ::getgid(), 0606);
  CHECK(mode_of(held(try_lock(session.path)).lock_path()) == 0604);
  session.make(::getuid(), ::getgid(), 0666);
  CHECK(mode_of(held(try_lock(session.path)).lock_path()) == 0644);
}

TEST_CASE("a lock that takes over another has the permissions of its session as well") {
  const SharedSession session;
  session.make(::getuid(), ::getgid(), 0666);
  plant(session.lock, foreign_record(dead_pid()));
  const auto lock = held(try_lock(session.path));
  CHECK(lock.reclaimed_from().has_value());
  CHECK(mode_of(session.lock) == 0644);
}

TEST_CASE("what an undone take-over puts back has the permissions that it had") {
  const SharedSession session;
  session.make(::getuid(), ::getgid(), 0666);
  plant(session.lock, foreign_record(dead_pid()));
  fs::permissions(session.lock, fs::perms(0600));
  {
    const Script script(
        once_before([](const sys::CallInfo& info) { return is_call_on(info, sys::Call::renameat2, "s.jsonl.lock"); },
                    [&] {
                      fs::remove(session.path);
                      fs::create_symlink("target", session.path);
                    }));
    CHECK(held(try_lock(session.path)).lock_path() == session.directory / "target.lock");
  }
  CHECK(mode_of(session.lock) == 0600);
}

TEST_CASE("a group that the lock cannot be given does not get to read it") {
  if (!is_root_or_skipped()) {
    return;
  }
  const SharedSession session;
  session.make(k_alice, k_team, 0660);
  as_user(k_alice, k_strangers, [&] {
    const auto lock = held(try_lock(session.path));
    REQUIRE_IN_CHILD(mode_of(session.lock) == 0600);
  });
}

TEST_CASE("the group does not get to read the lock of a session with an access control list") {
  // Protects: `session_has_acl`. The group's bits are a mask there, and the group itself may have been denied.
  const SharedSession session;
  session.make(::getuid(), ::getgid(), 0660);
  if (!set_acl(session.path, "system.posix_acl_access")) {
    return;
  }
  REQUIRE(mode_of(session.path) == 0660);
  CHECK(mode_of(held(try_lock(session.path)).lock_path()) == 0600);
}

TEST_CASE("the group does not get to read a lock that inherits an access control list") {
  // Protects: `has_no_acl`. The group's bits would let in whom the list names.
  const SharedSession session;
  session.make(::getuid(), ::getgid(), 0660);
  if (!set_acl(session.directory.path(), "system.posix_acl_default")) {
    return;
  }
  CHECK(mode_of(held(try_lock(session.path)).lock_path()) == 0600);
  CHECK(mode_of(held(LockManager(with_mode(0640)).try_acquire(session.path)).lock_path()) == 0640);
}

TEST_CASE("where it cannot be told whether a session has an access control list, the group does not read its lock") {
  const SharedSession session;
  session.make(::getuid(), ::getgid(), 0660);
  for (const sys::Call call : {sys::Call::lgetxattr, sys::Call::fgetxattr}) {
    const Script script(failing(call, EIO));
    CHECK(mode_of(held(try_lock(session.path)).lock_path()) == 0600);
  }
}

TEST_CASE("a member of the group takes over what a member who died has left, and is told whose it was") {
  if (!is_root_or_skipped()) {
    return;
  }
  const SharedSession session;
  session.make(k_alice, k_team, 0660);
  leave_lock_of(k_alice, k_team, session.path);
  as_user(k_bob, k_team, [&] {
    const auto lock = held(try_lock(session.path));
    REQUIRE_IN_CHILD(lock.reclaimed_from()->owner == OwnerState::dead);
    REQUIRE_IN_CHILD(mode_of(session.lock) == 0640);
  });
}

TEST_CASE("the lock that one user takes of another's private session is the locker's alone") {
  if (!is_root_or_skipped()) {
    return;
  }
  const SharedSession session;
  session.make(k_alice, k_team, 0600);
  const auto lock = held(try_lock(session.path));
  CHECK(mode_of(session.lock) == 0600);
}

TEST_CASE("a lock that cannot be read is held, and the error says who could read it and what would help") {
  if (!is_root_or_skipped()) {
    return;
  }
  const SharedSession session;
  leave_lock_of(k_alice, k_team, session.path);
  as_user(k_bob, k_team, [&] {
    constexpr std::string_view k_help =
        "it belongs to user 23451 and group 23453 and has mode 0600; ask as that user, or make later locks readable: "
        "let a common group write the session, or lock it with --mode 0644 (SESSIONLOCK_MODE=0644)";
    const auto refused = try_lock(session.path);
    REQUIRE_IN_CHILD(code_of(refused) == Errc::locked);
    REQUIRE_IN_CHILD(refused.error().holder->denied_by->user == k_alice);
    REQUIRE_IN_CHILD(refused.error().message().find(k_help) != std::string::npos);
    REQUIRE_IN_CHILD(LockManager().inspect(session.path)->explanation().find(k_help) != std::string::npos);
    const auto joined = LockManager().join(session.path, "0123456789abcdef0123456789abcdef");
    REQUIRE_IN_CHILD(joined.error().detail == k_help);
    const auto forced = LockManager().force_release(session.path, "1", true);
    REQUIRE_IN_CHILD(forced.error().detail.ends_with(k_help));
  });
}

TEST_CASE("a mode that is asked for holds for locks and for new sessions, but lets nobody else write a lock") {
  const SharedSession session;
  const mode_t before = ::umask(077);
  {
    auto lock = held(LockManager(with_mode(0666)).try_acquire(session.path));
    CHECK(mode_of(session.lock) == 0644);
    CHECK(Transcript::open(lock).has_value());
    CHECK(mode_of(session.path) == 0666);
  }
  fs::permissions(session.path, fs::perms(0600));
  {
    auto lock = held(LockManager(with_mode(0640)).try_acquire(session.path));
    CHECK(mode_of(session.lock) == 0640);
    CHECK(Transcript::open(lock).has_value());
  }
  CHECK(mode_of(session.path) == 0600);
  ::umask(before);
}

TEST_CASE("a lock that may be read by a group as a mode asks gets the session's") {
  if (!is_root_or_skipped()) {
    return;
  }
  const SharedSession session;
  session.make(k_alice, k_team, 0640);
  const auto lock = held(LockManager(with_mode(0640)).try_acquire(session.path));
  CHECK(status_of(session.lock).st_gid == k_team);
}

TEST_CASE("a mode that no lock can have is refused before anything is made") {
  const SharedSession session;
  for (const mode_t mode : {0U, 0400U, 0700U, 0777U, 0667U, 01600U, 04644U}) {
    CAPTURE(mode);
    LockManager manager(with_mode(mode));
    const auto refused = manager.try_acquire(session.path);
    CHECK(code_of(refused) == Errc::invalid_argument);
    CHECK(refused.error().detail.find("cannot be used") != std::string::npos);
    CHECK(code_of(manager.join(session.path, "x")) == Errc::invalid_argument);
  }
  CHECK(!fs::exists(session.lock));
}

TEST_CASE("a lock whose permissions cannot be set is its owner's alone, unless they were asked for") {
  const SharedSession session;
  session.make(::getuid(), ::getgid(), 0666);
  const Script script(failing(sys::Call::fchmod, EPERM));
  CHECK(mode_of(held(try_lock(session.path)).lock_path()) == 0600);
  const auto refused = LockManager(with_mode(0640)).try_acquire(session.path);
  CHECK(code_of(refused) == std::errc::operation_not_permitted);
  CHECK(refused.error().operation == "fchmod");
  CHECK(!fs::exists(session.lock));
}

TEST_CASE("a new session whose permissions cannot be set as they were asked for is an error") {
  const SharedSession session;
  auto lock = held(LockManager(with_mode(0600)).try_acquire(session.path));
  const Script script(failing(sys::Call::fchmod, EPERM));
  const auto refused = Transcript::open(lock);
  CHECK(code_of(refused) == std::errc::operation_not_permitted);
  CHECK(refused.error().path == session.path);
}

TEST_CASE("a gate's file is its owner's alone unless a mode is asked for") {
  const SharedSession session;
  const auto mode_with = [&](const GateOptions& options) {
    const auto entry = SpawnGate(session.path, options).try_enter();
    return entry->outcome == GateOutcome::acquired ? mode_of(session.path) : 0;
  };
  CHECK(mode_with({}) == 0600);
  GateOptions options;
  options.mode = 0666;
  CHECK(mode_with(options) == 0644);
  // What is left of the last one is not a session by whose permissions to go.
  plant(session.path, foreign_record(dead_pid()));
  fs::permissions(session.path, fs::perms(0666));
  CHECK(mode_with({}) == 0600);
}
