// Owners that live, or lived, in other namespaces, and pids that really are given out again.

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include <doctest/doctest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sessionlock/lock_manager.hpp>
#include <sessionlock/process_identity.hpp>

#include "lock_tools.hpp"
#include "process.hpp"
#include "script.hpp"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;

namespace {

constexpr StalePolicy k_greedy{0ms, 0ms, AgedUnverified::reclaim, UnknownOwner::hold};
constexpr std::chrono::seconds k_ten_years{10LL * 365 * 24 * 3600};
const Namespaces k_new_pids{CLONE_NEWPID | CLONE_NEWNS};
const Namespaces k_new_pids_old_proc{CLONE_NEWPID | CLONE_NEWNS, false};
const Namespaces k_new_time{CLONE_NEWTIME, true, 1h};

/// True, and says so aloud, where the machine does not have these namespaces.
bool is_refused(const Namespaces& namespaces) {
  const auto trial = run_in_namespaces(namespaces, [](Channel&) { return 0; });
  if (!trial.why_not.empty()) {
    skip_aloud(trial.why_not);
  }
  return !trial.why_not.empty();
}

bool ends_well(const Namespaces& namespaces, const std::function<void()>& body) {
  return run_in_namespaces(namespaces,
                           [&](Channel&) {
                             body();
                             return 0;
                           })
      .ended.exited_with(0);
}

int no_record_locks(const sys::CallInfo& info) {
  return info.call == sys::Call::ofd_setlk ? EINVAL : 0;
}

Result<SessionLock> acquire_with(const fs::path& session, bool with_witness) {
  std::optional<Script> script;
  if (!with_witness) {
    script.emplace(no_record_locks);
  }
  return LockManager().try_acquire(session);
}

/// A process in new namespaces that holds a session until the file "go" is there, and then dies with the lock in its
/// hands.
ChildProcess holder_in(const Namespaces& namespaces, const Session& session, bool with_witness) {
  auto child = ChildProcess::run([&](Channel&) {
    const auto run = run_in_namespaces(namespaces, [&](Channel&) {
      const auto lock = acquire_with(session.path, with_witness);
      REQUIRE_IN_CHILD(lock.has_value());
      REQUIRE_IN_CHILD(lock->record().witness.has_value() == with_witness);
      write_text(session.directory / "held", "");
      wait_until("the test is over", [&] { return fs::exists(session.directory / "go"); });
      ::_exit(0);
      return 0;
    });
    return run.ended.exited_with(0) ? 0 : 1;
  });
  wait_until("the lock is held", [&] { return fs::exists(session.directory / "held"); });
  return child;
}

void end_with_lock(ChildProcess& holder, const Session& session) {
  write_text(session.directory / "go", "");
  CHECK(holder.wait().exited_with(0));
}

Basis basis_of(const Result<SessionLock>& lock) {
  REQUIRE(!lock);
  REQUIRE(lock.error().holder.has_value());
  return lock.error().holder->basis;
}

StaleReason reason_of(const Result<SessionLock>& lock) {
  REQUIRE_MESSAGE(lock.has_value(), (lock ? "" : lock.error().message()));
  REQUIRE(lock->reclaimed_from().has_value());
  return lock->reclaimed_from()->reasons.front();
}

}  // namespace

TEST_CASE("a live holder in another PID namespace is held, whoever has its pid here") {
  // Protects: `compare` in classify.cpp, and rows 3 and 12 (trap 8). Its pid is 1 there, which is a stranger's here.
  if (is_refused(k_new_pids)) {
    return;
  }
  const Session session;
  SUBCASE("with a witness") {
    auto holder = holder_in(k_new_pids, session, true);
    CHECK(basis_of(try_lock(session.path, k_greedy)) == Basis::witness_held);
    end_with_lock(holder, session);
    CHECK(reason_of(try_lock(session.path)) == StaleReason::orphaned);
  }
  SUBCASE("without one it stays held even when it has gone, unless a policy says otherwise") {
    auto holder = holder_in(k_new_pids, session, false);
    CHECK(basis_of(try_lock(session.path, k_greedy)) == Basis::undecided);
    end_with_lock(holder, session);
    CHECK(basis_of(try_lock(session.path, k_greedy)) == Basis::undecided);
    StalePolicy policy = k_greedy;
    policy.unknown_owner = UnknownOwner::reclaim_when_aged;
    std::this_thread::sleep_for(2ms);  // older than 0 ms
    CHECK(reason_of(try_lock(session.path, policy)) == StaleReason::too_old);
  }
}

TEST_CASE("a dead owner of another PID namespace whose lock is put back is what the next turn is told of") {
  // Protects: that the file itself is put back: a copy would declare a witness on another inode, and be held for ever.
  if (is_refused(k_new_pids)) {
    return;
  }
  const Session session;
  auto holder = holder_in(k_new_pids, session, true);
  end_with_lock(holder, session);
  const fs::path link = session.directory / "link";
  fs::create_symlink("s.jsonl", link);
  {
    const Script script(
        once_before([](const sys::CallInfo& info) { return is_call_on(info, sys::Call::renameat2, "s.jsonl.lock"); },
                    [&] {
                      fs::remove(link);
                      fs::create_symlink("other", link);
                    }));
    CHECK(!held(try_lock(link)).reclaimed_from());
  }
  CHECK(reason_of(try_lock(session.path)) == StaleReason::orphaned);
}

TEST_CASE("a live holder is held for who looks from a PID namespace that does not have it") {
  // Protects: `compare` (trap 8, the other way): there, its pid is nobody's.
  if (is_refused(k_new_pids)) {
    return;
  }
  for (const bool with_witness : {true, false}) {
    const Session session;
    const auto holder = [&] {
      std::optional<Script> script;
      if (!with_witness) {
        script.emplace(no_record_locks);
      }
      return holder_of(session.path);
    }();
    CHECK(ends_well(k_new_pids, [&] {
      REQUIRE_IN_CHILD(::kill(holder.pid(), 0) != 0);
      const auto lock = try_lock(session.path, k_greedy);
      REQUIRE_IN_CHILD(!lock);
      REQUIRE_IN_CHILD(lock.error().holder->basis == (with_witness ? Basis::witness_held : Basis::undecided));
      REQUIRE_IN_CHILD(!lock.error().holder->pid_alive);
    }));
    CHECK(fs::exists(session.lock));
  }
}

TEST_CASE("a stranger with the pid and start time that a record of another namespace tells is not its owner") {
  // Protects: `compare` (trap 8): row 10 decides, not row 8.
  const Session session;
  const auto stranger = idle_process();
  plant(session.lock, "");
  struct stat status {};
  REQUIRE(::stat(session.lock.c_str(), &status) == 0);
  LockRecord record = own_record();
  record.pid = stranger.pid();
  record.starttime = process_start_time(stranger.pid());
  record.witness = format_witness({WitnessForm::ofd2, {status.st_dev, status.st_ino}});
  SUBCASE("of another PID namespace") {
    record.pid_namespace = *record.pid_namespace + 1;
  }
  SUBCASE("of another time namespace") {
    record.time_namespace = *record.time_namespace + 1;
  }
  write_text(session.lock, format_lock_record(record));
  CHECK(reason_of(try_lock(session.path)) == StaleReason::orphaned);
}

TEST_CASE("the same small pid in a restarted container is another process") {
  // Protects: rows 7 and 10 (trap 7).
  if (is_refused(k_new_pids)) {
    return;
  }
  const Session session;
  CHECK(ends_well(k_new_pids, [&] {
    const auto lock = try_lock(session.path);
    REQUIRE_IN_CHILD(lock.has_value() && lock->record().pid == 1);
    ::_exit(0);
  }));
  REQUIRE(fs::exists(session.lock));
  std::this_thread::sleep_for(20ms);  // so that start times, which count hundredths of a second, differ
  CHECK(ends_well(k_new_pids, [&] {
    const auto lock = try_lock(session.path);
    REQUIRE_IN_CHILD(lock.has_value() && lock->record().pid == 1);
    const StaleReason reason = lock->reclaimed_from()->reasons.front();
    // The number of a namespace can be given out again, too.
    REQUIRE_IN_CHILD(reason == StaleReason::orphaned || reason == StaleReason::recycled_pid);
  }));
}

TEST_CASE("the same small pid in two running containers is two processes") {
  // Protects: row 5 compares, and row 3 stands above it (traps 7 and 8).
  if (is_refused(k_new_pids)) {
    return;
  }
  for (const bool with_witness : {true, false}) {
    const Session session;
    auto holder = holder_in(k_new_pids, session, with_witness);
    CHECK(ends_well(k_new_pids, [&] { REQUIRE_IN_CHILD(!try_lock(session.path, k_greedy)); }));
    end_with_lock(holder, session);
  }
}

TEST_CASE("a start time of another time namespace proves nothing") {
  // Protects: `record.time_namespace == observer.time_namespace` in `compare` (trap 9).
  if (is_refused(k_new_time)) {
    return;
  }
  SUBCASE("of a holder there") {
    const Session session;
    auto holder = holder_in(k_new_time, session, false);
    const LockRecord record = parse_lock_record(read_text(session.lock));
    CHECK(is_pid_alive(*record.pid));
    CHECK(process_start_time(*record.pid) != record.starttime);  // it would look recycled
    CHECK(basis_of(try_lock(session.path, k_greedy)) == Basis::undecided);
    end_with_lock(holder, session);
  }
  SUBCASE("for who looks from there") {
    const Session session;
    const auto holder = [&] {
      const Script script(no_record_locks);
      return holder_of(session.path);
    }();
    CHECK(ends_well(k_new_time, [&] {
      const auto lock = try_lock(session.path, k_greedy);
      REQUIRE_IN_CHILD(!lock && lock.error().holder->basis == Basis::undecided);
    }));
  }
  SUBCASE("of another program, which tells no namespace, for who looks from there") {
    const Session session;
    const auto owner = idle_process();
    plant(session.lock, foreign_record(owner.pid(), start_of(owner.pid())));
    CHECK(ends_well(k_new_time, [&] {
      const auto lock = try_lock(session.path, k_greedy);
      REQUIRE_IN_CHILD(!lock && lock.error().holder->basis == Basis::undecided);
      REQUIRE_IN_CHILD(lock.error().holder->owner == OwnerState::unknown);
    }));
    CHECK(basis_of(try_lock(session.path, k_greedy)) == Basis::verified);
    write_text(session.lock, foreign_record(dead_pid(), "1"));
    CHECK(ends_well(k_new_time, [&] { REQUIRE_IN_CHILD(try_lock(session.path, k_greedy).has_value()); }));
  }
  SUBCASE("nor does the time of this boot") {
    const Session session;
    LockRecord record = own_record();
    record.boot_id = "00000000-0000-4000-8000-000000000000";
    record.witness = "ofd2:1:1";
    plant(session.lock, format_lock_record(record));
    make_older(session.lock, k_ten_years);
    CHECK(ends_well(k_new_time, [&] {
      const auto lock = try_lock(session.path, k_greedy);
      REQUIRE_IN_CHILD(!lock && lock.error().holder->basis == Basis::undecided);
    }));
    CHECK(reason_of(try_lock(session.path)) == StaleReason::previous_boot);
  }
}

TEST_CASE("with the /proc of another PID namespace start times are unknown, nobody is dead, and locks work") {
  // Protects: `numbering_of` in procfs.cpp, rows 9b and 12 (trap 9).
  if (is_refused(k_new_pids_old_proc)) {
    return;
  }
  const auto owner = idle_process();
  const Session outside;
  const Session inside;
  LockRecord record = own_record();
  record.pid = owner.pid();
  record.starttime = process_start_time(owner.pid());
  plant(outside.lock, format_lock_record(record));
  CHECK(ends_well(k_new_pids_old_proc, [&] {
    REQUIRE_IN_CHILD(!try_lock(outside.path, k_greedy));
    const auto neighbour = idle_process();
    plant(inside.lock, foreign_record(neighbour.pid(), "1"));
    const auto refused = try_lock(inside.path, k_greedy);
    REQUIRE_IN_CHILD(!refused && refused.error().holder->basis == Basis::start_unknown);
    fs::remove(inside.lock);
    auto lock = try_lock(inside.path);
    REQUIRE_IN_CHILD(lock.has_value());
    REQUIRE_IN_CHILD(!lock->record().starttime);
    REQUIRE_IN_CHILD(!try_lock(inside.path, k_greedy));
    REQUIRE_IN_CHILD(lock->guarded([] {}).has_value());
    REQUIRE_IN_CHILD(lock->release().has_value());
  }));
  CHECK(fs::exists(outside.lock));
}

TEST_CASE("a process that /proc hides is not gone, and its start time is unknown") {
  // Protects: row 9b (trap 9).
  const Namespaces mounts{CLONE_NEWNS};
  if (is_refused(mounts) || !can_become_second_user()) {
    return;
  }
  const Session session;
  fs::permissions(session.directory.path(), fs::perms::all);
  const auto owner = idle_process();
  plant(session.lock, foreign_record(owner.pid(), "1"));
  fs::permissions(session.lock, fs::perms(0644));
  CHECK(ends_well(mounts, [&] {
    if (::mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=2") != 0) {
      skip_aloud("/proc cannot be mounted with hidepid");
      return;
    }
    fs::current_path(session.directory.path());
    become_second_user();
    REQUIRE_IN_CHILD(!fs::exists("/proc/" + std::to_string(owner.pid())));
    const auto lock = try_lock("s.jsonl", k_greedy);
    REQUIRE_IN_CHILD(!lock && lock.error().holder->basis == Basis::start_unknown);
    REQUIRE_IN_CHILD(lock.error().holder->pid_alive);
  }));
  CHECK(reason_of(try_lock(session.path)) == StaleReason::recycled_pid);
}

TEST_CASE("a pid that was really given out again is recycled") {
  // Protects: row 7 (trap 7).
  if (is_refused(k_new_pids)) {
    return;
  }
  const Session session;
  CHECK(ends_well(k_new_pids, [&] {
    auto owner = holder_of(session.path);
    const pid_t pid = owner.pid();
    (void)owner.kill();
    std::this_thread::sleep_for(30ms);  // start times count hundredths of a second
    write_text("/proc/sys/kernel/ns_last_pid", std::to_string(pid - 1));
    const auto stranger = idle_process();
    REQUIRE_IN_CHILD(stranger.pid() == pid);
    const auto lock = try_lock(session.path);
    REQUIRE_IN_CHILD(lock.has_value());
    REQUIRE_IN_CHILD(lock->reclaimed_from()->reasons.front() == StaleReason::recycled_pid);
    REQUIRE_IN_CHILD(lock->reclaimed_from()->pid_alive);
  }));
}

TEST_CASE("a lock seen through another layer of an overlay is held") {
  // Protects: the comparison of inodes in `judge_witness`: the witness of the merged view's inode cannot be asked
  // through the upper layer's, and looks free there.
  std::string why_not;
  const auto layers = TmpfsMount::mount("size=1m", &why_not);
  if (!layers) {
    skip_aloud("a tmpfs cannot be mounted: " + why_not);
    return;
  }
  for (const char* name : {"lower", "upper", "work", "merged"}) {
    fs::create_directory(*layers / name);
  }
  const std::string root = layers->path().string();
  const std::string options = "lowerdir=" + root + "/lower,upperdir=" + root + "/upper,workdir=" + root + "/work";
  if (::mount("overlay", (root + "/merged").c_str(), "overlay", 0, options.c_str()) != 0) {
    skip_aloud("an overlay cannot be mounted");
    return;
  }
  const fs::path merged = *layers / "merged/s.jsonl";
  const fs::path upper = *layers / "upper/s.jsonl";
  SUBCASE("for another process") {
    auto holder = holder_of(merged);
    REQUIRE(parse_lock_record(read_text(upper.string() + ".lock")).pid == holder.pid());
    CHECK(basis_of(try_lock(upper, k_greedy)) == Basis::verified);
    CHECK(basis_of(try_lock(merged, k_greedy)) == Basis::witness_held);
    (void)holder.kill();
    CHECK(reason_of(try_lock(upper)) == StaleReason::dead_pid);
  }
  SUBCASE("for the process that holds it") {
    auto lock = try_lock(merged);
    REQUIRE(lock.has_value());
    CHECK(basis_of(try_lock(upper, k_greedy)) == Basis::verified);
    CHECK(lock->verify().has_value());
    CHECK(lock->release().has_value());
    CHECK(!fs::exists(upper.string() + ".lock"));
  }
  ::umount2((root + "/merged").c_str(), MNT_DETACH);
}
