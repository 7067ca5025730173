// Which locks an acquire takes away, and which it keeps its hands off: evidence, age, malformed and hostile files.
// Races are in acquire_races.cpp, namespaces in acquire_namespaces.cpp, what a holder can do in hold.cpp.

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sessionlock/lock_manager.hpp>
#include <sessionlock/sweep.hpp>

#include "lock_tools.hpp"
#include "process.hpp"
#include "process/process_probe.hpp"
#include "process/this_process.hpp"
#include "script.hpp"
#include "waiting/waiter.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;

namespace {

/// Anything that a policy may take away, it does.
constexpr StalePolicy k_greedy{0ms, 0ms, AgedUnverified::reclaim, UnknownOwner::reclaim_when_aged};
constexpr std::chrono::seconds k_ten_years{10LL * 365 * 24 * 3600};
constexpr std::string_view k_another_boot = "00000000-0000-4000-8000-000000000000";

using Reasons = std::vector<StaleReason>;

/// The lock is taken over at the first try, for these reasons.
void check_taken(const Session& session, const Reasons& why, const StalePolicy& policy = {}) {
  const auto lock = try_lock(session.path, policy);
  REQUIRE_MESSAGE(lock.has_value(), (lock ? "" : lock.error().message()));
  REQUIRE(lock->reclaimed_from().has_value());
  CHECK(lock->reclaimed_from()->reasons == why);
  CHECK(lock->reclaimed_from()->removed);
  CHECK(lock->record().pid == ::getpid());
  CHECK(lock->verify().has_value());
}

/// The lock is kept, whatever a policy would like; returns what was said of its holder.
Inspection check_kept(const Session& session, const StalePolicy& policy = {}) {
  const auto before = inode_of(session.lock);
  const std::string text = read_text(session.lock);
  const auto lock = try_lock(session.path, policy);
  REQUIRE(!lock);
  CHECK(lock.error().code == Errc::locked);
  REQUIRE(lock.error().holder.has_value());
  CHECK(!lock.error().holder->removable);
  CHECK(lock.error().holder->session_path == session.path);
  CHECK(lock.error().holder->lock_path == session.lock);
  CHECK(inode_of(session.lock) == before);
  CHECK(read_text(session.lock) == text);
  return *lock.error().holder;
}

/// A record of this library by another process of this boot and these namespaces.
LockRecord record_of(pid_t pid) {
  LockRecord record = own_record();
  record.pid = pid;
  record.starttime = process_start_time(pid);
  return record;
}

}  // namespace

// --- the owner is gone -----------------------------------------------------------------------------------------------

TEST_CASE("a free session is acquired, and its record tells who has it") {
  const Session session;
  AcquireOptions options;
  options.label = "nightly";
  options.max_hold = 90s;
  const auto lock = LockManager().acquire(session.path, options);
  REQUIRE(lock.has_value());
  const LockRecord record = parse_lock_record(read_text(session.lock));
  CHECK(record == lock->record());
  CHECK(record.pid == ::getpid());
  CHECK(record.starttime == process_start_time(::getpid()));
  CHECK(record.boot_id == this_process().boot_id);
  CHECK(record.pid_namespace == this_process().pid_namespace);
  CHECK(record.time_namespace == this_process().time_namespace);
  CHECK(record.host == this_process().host);
  CHECK(record.label == "nightly");
  CHECK(record.max_hold_ms == 90'000);
  CHECK(record.lock_id->size() == 32);
  CHECK(record.witness.has_value());
  CHECK(!record.session);
  CHECK(!lock->reclaimed_from());
}

TEST_CASE("missing directories above the session are made, but not the session") {
  const Session session;
  const auto lock = try_lock(session.directory / "a/b/c/s.jsonl");
  REQUIRE(lock.has_value());
  CHECK(fs::exists(session.directory / "a/b/c/s.jsonl.lock"));
  CHECK(!fs::exists(session.directory / "a/b/c/s.jsonl"));
}

TEST_CASE("a dead owner's lock is taken over at once") {
  // Protects: row 6, `comparable && evidence.pid == PidProbe::gone` in classify.cpp.
  const Session session;
  SUBCASE("of this library") {
    auto holder = holder_of(session.path);
    CHECK(check_kept(session).basis == Basis::witness_held);
    (void)holder.kill();
    const auto lock = try_lock(session.path);
    REQUIRE(lock.has_value());
    CHECK(lock->reclaimed_from()->record.pid == holder.pid());
    CHECK(lock->reclaimed_from()->owner == OwnerState::dead);
    CHECK(lock->reclaimed_from()->reasons == Reasons{StaleReason::dead_pid});
    CHECK(!lock->reclaimed_from()->pid_alive);
  }
  SUBCASE("of another program") {
    plant(session.lock, foreign_record(dead_pid()));
    check_taken(session, {StaleReason::dead_pid});
  }
  SUBCASE("of another program, with a start time") {
    plant(session.lock, foreign_record(dead_pid(), "12345"));
    check_taken(session, {StaleReason::dead_pid});
  }
}

TEST_CASE("a dead owner's lock is taken over at once, however long its name is") {
  // Protects: `part_of` in temporary_name.cpp. A successor has a temporary name first, which must be allowed as well.
  const TemporaryDirectory directory;
  ManagerOptions in_directory;
  in_directory.lock_directory = directory / "locks";
  const auto check = [](LockManager& manager, const fs::path& session) {
    CAPTURE(session);
    auto holder =
        ChildProcess::run([&](Channel&) { return manager.acquire(session) ? ::kill(::getpid(), SIGKILL) : 1; });
    REQUIRE(holder.wait().killed_by(SIGKILL));
    AcquireOptions once;
    once.timeout = 0ms;
    const auto lock = manager.acquire(session, once);
    REQUIRE_MESSAGE(lock.has_value(), (lock ? "" : lock.error().message()));
    REQUIRE(lock->reclaimed_from().has_value());
    CHECK(lock->reclaimed_from()->record.pid == holder.pid());
  };
  LockManager beside;
  for (const std::size_t size : {100U, 101U, 212U, 213U, 250U}) {
    check(beside, directory / std::string(size, 's'));
  }
  LockManager elsewhere(in_directory);
  for (const std::size_t size : {175U, 176U, 213U}) {
    check(elsewhere, directory / std::string(size, 't'));
  }
  CHECK(names_in(directory.path()) == std::vector<std::string>{"locks"});
  CHECK(names_in(directory / "locks").empty());
}

TEST_CASE("a zombie's lock is taken over at once") {
  // Protects: the zombie branch of `probe_process` (trap 10).
  const Session session;
  auto holder = holder_of(session.path);
  const std::string foreign = foreign_record(holder.pid(), start_of(holder.pid()));
  holder.send_signal(SIGKILL);
  holder.wait_until_zombie();
  REQUIRE(::kill(holder.pid(), 0) == 0);
  SUBCASE("of this library") {
    check_taken(session, {StaleReason::dead_pid});
  }
  SUBCASE("of another program") {
    fs::remove(session.lock);
    plant(session.lock, foreign);
    check_taken(session, {StaleReason::dead_pid});
  }
}

TEST_CASE("a recycled pid's lock is taken over at once") {
  // Protects: row 7, `starts_known && !starts_equal` (trap 7). Real recycling is in acquire_namespaces.cpp.
  const Session session;
  const auto stranger = idle_process();
  const auto start = *process_start_time(stranger.pid());
  SUBCASE("of this library") {
    LockRecord record = record_of(stranger.pid());
    record.starttime = start - 1;
    plant(session.lock, format_lock_record(record));
  }
  SUBCASE("of another program") {
    plant(session.lock, foreign_record(stranger.pid(), std::to_string(start + 1)));
  }
  check_taken(session, {StaleReason::recycled_pid});
}

TEST_CASE("our own pid in a record is judged by its start time") {
  // Protects: rows 5, 7, 8 and 9b for our own pid (trap 7).
  const Session session;
  const std::string start = start_of(::getpid());
  SUBCASE("a wrong one is taken over at once") {
    plant(session.lock, foreign_record(::getpid(), "1"));
    check_taken(session, {StaleReason::recycled_pid});
  }
  SUBCASE("none is held") {
    plant(session.lock, foreign_record(::getpid()));
    CHECK(check_kept(session).basis == Basis::unverified);
  }
  SUBCASE("123.5 is held") {
    plant(session.lock, foreign_record(::getpid(), "123.5"));
    CHECK(check_kept(session).basis == Basis::unverified);
  }
  SUBCASE("the right one, without a witness to ask, is held") {
    plant(session.lock, foreign_record(::getpid(), start));
    CHECK(check_kept(session, k_greedy).basis == Basis::verified);
  }
  SUBCASE("the right one, of this library, with another file's witness is held") {
    LockRecord record = own_record();
    record.witness = "ofd:1:1";
    plant(session.lock, format_lock_record(record));
    CHECK(check_kept(session, k_greedy).basis == Basis::verified);
  }
  SUBCASE("the right one, with this file's witness free, is an orphan of ours") {
    plant(session.lock, "");
    struct stat status {};
    REQUIRE(::stat(session.lock.c_str(), &status) == 0);
    LockRecord record = own_record();
    record.witness = format_witness({WitnessForm::ofd2, {status.st_dev, status.st_ino}});
    write_text(session.lock, format_lock_record(record));
    check_taken(session, {StaleReason::orphan_self_pid});
  }
}

TEST_CASE("our parent's pid in a record is judged by its start time like any other") {
  // Protects: rows 7 and 8, and that no pid is taken for ours by kinship (trap 7): in a restarted container the parent,
  // too, has the small pid it had before.
  const Session session;
  auto child = ChildProcess::run([&](Channel&) {
    const pid_t parent = ::getppid();
    plant(session.lock, foreign_record(parent, start_of(parent)));
    REQUIRE_IN_CHILD(!try_lock(session.path, k_greedy));
    REQUIRE_IN_CHILD(try_lock(session.path).error().holder->basis == Basis::verified);
    fs::remove(session.lock);
    plant(session.lock, foreign_record(parent, "7"));
    const auto lock = try_lock(session.path);
    REQUIRE_IN_CHILD(lock.has_value());
    REQUIRE_IN_CHILD(lock->reclaimed_from()->reasons.front() == StaleReason::recycled_pid);
    return 0;
  });
  CHECK(child.wait().exited_with(0));
}

TEST_CASE("(after exec) what is left of a lock of this very process" * doctest::skip()) {
  const char* const session = ::getenv("SESSIONLOCK_TEST_SESSION");
  REQUIRE(session != nullptr);
  const LockRecord left = parse_lock_record(read_text(std::string(session) + ".lock"));
  CHECK(left.pid == ::getpid());
  CHECK(left.starttime == process_start_time(::getpid()));
  const auto lock = try_lock(session);
  if (::getenv("SESSIONLOCK_TEST_HEIR") != nullptr) {
    REQUIRE(!lock);
    CHECK(lock.error().holder->basis == Basis::witness_held);
  } else {
    REQUIRE(lock.has_value());
    CHECK(lock->reclaimed_from()->reasons == Reasons{StaleReason::orphan_self_pid});
  }
}

TEST_CASE("an orphan that an exec of this process left is taken over at once") {
  // Protects: row 5, and O_CLOEXEC on the witness's descriptor (trap 12).
  const Session session;
  const auto after_exec = [&](bool with_heir) {
    return ChildProcess::run([&](Channel&) {
             const auto lock = LockManager().acquire(session.path);
             REQUIRE_IN_CHILD(lock.has_value());
             ::setenv("SESSIONLOCK_TEST_SESSION", session.path.c_str(), 1);
             if (with_heir) {  // as if it had been handed over: its descriptor goes along
               ::setenv("SESSIONLOCK_TEST_HEIR", "1", 1);
               for (int fd = 3; fd < 256; ++fd) {
                 ::fcntl(fd, F_SETFD, 0);
               }
             }
             ::execl("/proc/self/exe", "acquire", "-tc=(after exec)*", "--no-skip", "--minimal", nullptr);
             return 1;
           })
        .wait();
  };
  SUBCASE("where nothing holds it") {
    CHECK(after_exec(false).exited_with(0));
  }
  SUBCASE("unless the witness went along") {
    CHECK(after_exec(true).exited_with(0));
  }
}

TEST_CASE("a lock from a previous boot is taken over at once") {
  // Protects: row 11, and `older_than_boot` in inspector.cpp.
  const Session session;
  LockRecord record = own_record();
  record.boot_id = k_another_boot;
  record.pid = 1;
  record.witness = "ofd2:1:1";  // device numbers change between boots
  SUBCASE("whoever has its pid now") {
    REQUIRE(boot_time_seconds().has_value());
    plant(session.lock, format_lock_record(record));
    make_older(session.lock, k_ten_years);
    check_taken(session, {StaleReason::previous_boot});
  }
  SUBCASE("but not if its file is younger than this boot") {
    plant(session.lock, format_lock_record(record));
    CHECK(check_kept(session).basis == Basis::undecided);
  }
  SUBCASE("but not if its witness is held") {
    const auto holder = holder_of(session.path);
    write_text(session.lock, format_lock_record(record));
    make_older(session.lock, k_ten_years);
    CHECK(check_kept(session, k_greedy).basis == Basis::witness_held);
  }
  SUBCASE("but not on a file system that outlives this kernel") {
    plant(session.lock, format_lock_record(record));
    make_older(session.lock, k_ten_years);
    const auto directory = open_directory(session.directory.path());  // known: only the file is asked again
    const Script script(failing(sys::Call::fstatfs, EIO));
    CHECK(check_kept(session).basis == Basis::undecided);
  }
  SUBCASE("but not if its publisher did not take the file system for its own") {
    // A client of this machine's directory, which lives: it sees a network file system, and declares no witness.
    record.witness.reset();
    plant(session.lock, format_lock_record(record));
    make_older(session.lock, k_ten_years);
    CHECK(check_kept(session).basis == Basis::undecided);
  }
}

// --- the owner is alive, or may be -----------------------------------------------------------------------------------

TEST_CASE("whatever the record's text says, a held witness keeps the lock") {
  // Protects: row 3, `evidence.witness == WitnessState::held`, above every row that removes.
  const Session session;
  const auto holder = holder_of(session.path);
  const LockRecord own = parse_lock_record(read_text(session.lock));
  LockRecord other_boot = own;
  other_boot.boot_id = k_another_boot;
  LockRecord recycled = own;
  recycled.starttime = 1;
  LockRecord ours = own_record();
  ours.witness = own.witness;
  for (const std::string& text :
       {std::string(), std::string("{}"), std::string("{\"pid\": "), std::string("\0\0\0", 3),
        foreign_record(dead_pid()), foreign_record(dead_pid(), "7", 24h * 365), format_lock_record(other_boot),
        format_lock_record(recycled), format_lock_record(ours)}) {
    CAPTURE(text);
    write_text(session.lock, text);
    make_older(session.lock, k_ten_years);
    const Inspection seen = check_kept(session, k_greedy);
    CHECK((seen.basis == Basis::witness_held || seen.basis == Basis::witness_inherited));
    CHECK(seen.owner == OwnerState::alive);
  }
}

TEST_CASE("a lock held by this process is never reclaimed, by age, by its text or by its hold limit") {
  // Protects: row 2, `evidence.held_here`.
  const Session session;
  AcquireOptions options;
  options.max_hold = 1ms;
  const auto lock = LockManager().acquire(session.path, options);
  REQUIRE(lock.has_value());
  write_text(session.lock, "{}");
  make_older(session.lock, k_ten_years);
  CHECK(check_kept(session, k_greedy).basis == Basis::held_here);
  CHECK(LockManager().inspect(session.path, {.stale = k_greedy})->basis == Basis::held_here);
  CHECK(lock->verify().has_value());
}

TEST_CASE("a live verified owner is kept past stale_after, reported, and waited for to the end of the time-out") {
  // Protects: row 8 above row 9 (trap 11).
  const Session session;
  const auto owner = idle_process();
  SUBCASE("of this library") {
    LockRecord record = record_of(owner.pid());
    record.created_at = created_at_ago(2h);
    record.max_hold_ms = 1000;
    plant(session.lock, format_lock_record(record));
  }
  SUBCASE("of another program") {
    std::string text = foreign_record(owner.pid(), start_of(owner.pid()), 2h);
    text.insert(1, R"("maxHoldMs": 1000, )");
    plant(session.lock, text);
  }
  make_older(session.lock, 2h);
  const Inspection holder = check_kept(session, k_greedy);
  CHECK(holder.basis == Basis::verified);
  CHECK(holder.reasons == Reasons{StaleReason::too_old, StaleReason::hold_exceeded});
  CHECK(*holder.age >= 2h);
  AcquireOptions options;
  options.timeout = 300ms;
  const auto start = std::chrono::steady_clock::now();
  const auto lock = LockManager().acquire(session.path, options);
  CHECK(std::chrono::steady_clock::now() - start >= options.timeout);
  REQUIRE(!lock);
  CHECK(lock.error().code == Errc::timed_out);
  CHECK(lock.error().holder->record.pid == owner.pid());
  CHECK(fs::exists(session.lock));
}

TEST_CASE("a legacy live owner without a start time is reclaimed when aged, or kept by policy") {
  // Protects: row 9, and `AgedUnverified`.
  const Session session;
  const auto owner = idle_process();
  StalePolicy keep;
  keep.aged_unverified = AgedUnverified::keep;
  SUBCASE("young") {
    plant(session.lock, foreign_record(owner.pid(), "", 29min));
    make_older(session.lock, k_ten_years);
    const Inspection holder = check_kept(session);
    CHECK(holder.basis == Basis::unverified);
    CHECK(holder.pid_alive);
  }
  SUBCASE("aged by a clock that is ahead: the file tells that it is young") {
    plant(session.lock, foreign_record(owner.pid(), "", 2h));
    const Inspection holder = check_kept(session);
    CHECK(holder.basis == Basis::unverified);
    CHECK(holder.reasons.empty());
    CHECK(code_of(LockManager().force_release(session.path, std::to_string(owner.pid()))) == Errc::locked);
  }
  SUBCASE("aged") {
    plant(session.lock, foreign_record(owner.pid(), "", 31min));
    make_older(session.lock, 31min);
    CHECK(check_kept(session, keep).reasons == Reasons{StaleReason::too_old});
    check_taken(session, {StaleReason::too_old});
  }
  SUBCASE("without a valid createdAt the file's age counts") {
    plant(session.lock, "{\"pid\": " + std::to_string(owner.pid()) + ", \"createdAt\": \"yesterday\"}");
    CHECK(check_kept(session).reasons == Reasons{StaleReason::invalid_created_at});
    make_older(session.lock, 31min);
    CHECK(check_kept(session, keep).owner == OwnerState::alive);
    check_taken(session, {StaleReason::invalid_created_at});
  }
}

TEST_CASE("a malformed start time with a live pid and a fresh createdAt never leads to a reclaim") {
  // Protects: a malformed `starttime` is absent (lock_record.cpp), and rows 9 and 9b above all that is removable.
  const auto owner = idle_process();
  for (const std::string_view malformed : {"123.5", "-1", "\"123\"", "null", "true", "[1]", "1e400",
                                           "12345678901234567890123", "{}", "1e20", "-0.5", "\"\""}) {
    CAPTURE(malformed);
    const Session foreign;
    plant(foreign.lock, foreign_record(owner.pid(), malformed));
    make_older(foreign.lock, k_ten_years);
    const Inspection holder = check_kept(foreign);
    CHECK(holder.owner == OwnerState::alive);
    CHECK(holder.record.pid == owner.pid());
    CHECK(!holder.record.starttime);

    const Session own;
    LockRecord record = record_of(owner.pid());
    record.starttime.reset();
    std::string text = format_lock_record(record);
    text.insert(1, "\n  \"starttime\": " + std::string(malformed) + ",");
    plant(own.lock, text);
    make_older(own.lock, k_ten_years);
    CHECK(check_kept(own, k_greedy).basis == Basis::start_unknown);
  }
}

TEST_CASE("a file without an owner is pending while it is fresh and taken over when it is aged") {
  // Protects: row 4, and `malformed_grace` (traps 4, 5 and 14).
  for (const std::string_view text : {"", "{}", "{\"pid\":", "{\"pid\": 0}", "{\"pid\": -1}", "{\"pid\": 2147483648}",
                                      "{\"pid\": 9223372036854775808}", "{\"pid\": 1.5}"}) {
    CAPTURE(text);
    const Session session;
    plant(session.lock, text);
    const Inspection fresh = check_kept(session);
    CHECK(fresh.state == LockState::pending);
    CHECK(fresh.owner == OwnerState::none);
    make_older(session.lock, 25s);
    CHECK(check_kept(session).state == LockState::pending);
    make_older(session.lock, 31s);
    check_taken(session, {StaleReason::missing_pid, StaleReason::invalid_created_at});
  }
}

TEST_CASE("a file without an owner from the future is taken over by a wait that has seen it unchanged for the grace") {
  const Session session;
  plant(session.lock, "");
  make_older(session.lock, -1h);
  const Inspection seen = check_kept(session, k_greedy);
  CHECK(seen.state == LockState::pending);
  CHECK(seen.file_age == 0ms);
  AcquireOptions options;
  options.stale.malformed_grace = 300ms;
  const auto start = std::chrono::steady_clock::now();
  const auto lock = LockManager().acquire(session.path, options);
  REQUIRE_MESSAGE(lock.has_value(), (lock ? "" : lock.error().message()));
  CHECK(std::chrono::steady_clock::now() - start > 300ms);
  CHECK(lock->reclaimed_from()->reasons.front() == StaleReason::missing_pid);
}

TEST_CASE("an inspection and a sweep take a file from the future for a new one") {
  // Protects: `age_of` in `age_of_file`. Each of them looks once, so that none has seen the file unchanged.
  const Session session;
  plant(session.lock, "");
  make_older(session.lock, -1h);
  const auto seen = LockManager().inspect(session.path, {.stale = k_greedy});
  REQUIRE(seen.has_value());
  CHECK(seen->file_age == 0ms);
  CHECK(seen->state == LockState::pending);
  SweepOptions options;
  options.remove = true;
  options.stale = k_greedy;
  const auto report = sweep(session.directory.path(), options);
  REQUIRE(report.has_value());
  CHECK(report->locks.size() == 1);
  CHECK(report->removed.empty());
  CHECK(fs::exists(session.lock));
}

TEST_CASE("a wait outlasts the grace of a file without an owner") {
  const Session session;
  plant(session.lock, "{}");
  AcquireOptions options;
  options.stale.malformed_grace = 200ms;
  const auto lock = LockManager().acquire(session.path, options);
  REQUIRE(lock.has_value());
  CHECK(lock->reclaimed_from()->reasons.front() == StaleReason::missing_pid);
}

TEST_CASE("a lock being born is not taken, and is respected once it is written") {
  const Session session;
  const auto owner = idle_process();
  plant(session.lock, "");
  CHECK(check_kept(session).state == LockState::pending);
  write_text(session.lock, foreign_record(owner.pid(), start_of(owner.pid())));
  CHECK(check_kept(session).state == LockState::held);
}

TEST_CASE("a createdAt in the year 2099 has the age of its file, and 0 if that is from the future as well") {
  const Session session;
  const auto owner = idle_process();
  plant(session.lock, "{\"pid\": " + std::to_string(owner.pid()) + ", \"createdAt\": \"2099-01-01T00:00:00Z\"}");
  make_older(session.lock, -24h);
  const Inspection young = check_kept(session, k_greedy);
  CHECK(young.age == 0ms);
  CHECK(young.reasons.empty());
  make_older(session.lock, k_ten_years);
  const Inspection old = check_kept(session, {.aged_unverified = AgedUnverified::keep});
  CHECK(old.age > k_ten_years - 1min);
  CHECK(old.reasons == Reasons{StaleReason::too_old});
  check_taken(session, {StaleReason::too_old});
}

TEST_CASE("fields of a newer version are ignored") {
  const Session session;
  const auto owner = idle_process();
  const auto with_fields = [](const LockRecord& record) {
    std::string text = format_lock_record(record);
    text.insert(1, R"("version": 9, "lease": {"pid": 1, "until": [1, 2]}, "cgroup": null,)");
    return text;
  };
  plant(session.lock, with_fields(record_of(owner.pid())));
  CHECK(check_kept(session, k_greedy).basis == Basis::verified);
  LockRecord dead = own_record();
  dead.pid = dead_pid();
  write_text(session.lock, with_fields(dead));
  check_taken(session, {StaleReason::dead_pid});
}

TEST_CASE("a record that tells only some of the namespaces is not compared") {
  // Protects: `compare` (trap 8).
  const Session session;
  LockRecord record = own_record();
  record.pid = dead_pid();
  SUBCASE("no time namespace") {
    record.time_namespace.reset();
  }
  SUBCASE("no PID namespace") {
    record.pid_namespace.reset();
  }
  SUBCASE("no boot") {
    record.boot_id.reset();
  }
  plant(session.lock, format_lock_record(record));
  CHECK(check_kept(session).basis == Basis::undecided);
}

TEST_CASE("an old lock that a backup restored") {
  const Session session;
  const fs::path backup = session.directory / "backup";
  SUBCASE("is taken over if its owner is dead") {
    auto holder = holder_of(session.path);
    fs::copy_file(session.lock, backup);
    holder.tell("release");
    holder.expect("released");
    (void)holder.kill();
    fs::rename(backup, session.lock);
    check_taken(session, {StaleReason::dead_pid});
  }
  SUBCASE("over its living owner's makes that one's hold lost, and lets nobody else in") {
    auto owner = holder_of(session.path);
    fs::copy_file(session.lock, backup);
    fs::rename(backup, session.lock);
    CHECK(check_kept(session, k_greedy).basis == Basis::verified);
    owner.tell("release");
    CHECK(owner.hear()->find(make_error_code(Errc::lost).message()) != std::string::npos);
    CHECK(fs::exists(session.lock));
    (void)owner.kill();
    check_taken(session, {StaleReason::dead_pid});
  }
  SUBCASE("over our own makes our hold lost, and is held by our running process") {
    const auto lock = try_lock(session.path);
    REQUIRE(lock.has_value());
    fs::copy_file(session.lock, backup);
    fs::rename(backup, session.lock);
    CHECK(lock->verify().error().code == Errc::lost);
    CHECK(check_kept(session, k_greedy).basis == Basis::verified);
  }
  SUBCASE("as the very file that our lost hold had is an orphan of ours") {
    // Protects: the unlock of the witness in `Hold::end`.
    const auto lock = try_lock(session.path);
    REQUIRE(lock.has_value());
    fs::rename(session.lock, backup);
    CHECK(lock->verify().error().code == Errc::lost);
    fs::rename(backup, session.lock);
    check_taken(session, {StaleReason::orphan_self_pid});
  }
}

// --- what cannot be read, and hostile files --------------------------------------------------------------------------

TEST_CASE("trouble in reading is never taken for a stale lock, and the time-out names it") {
  // Protects: row 1, `evidence.unreadable` (trap 13).
  const Session session;
  plant(session.lock, foreign_record(dead_pid()));
  for (const auto call : {sys::Call::openat, sys::Call::pread}) {
    for (const int error : {EIO, EACCES, EPERM, ESTALE}) {
      CAPTURE(sys::to_string(call));
      CAPTURE(error);
      AcquireOptions options;
      options.timeout = 50ms;
      options.stale = k_greedy;
      const auto lock = [&] {
        const Script script([=, of_lock = false](const sys::CallInfo& info) mutable {
          if (info.call == sys::Call::openat) {
            of_lock = is_call_on(info, sys::Call::openat, "s.jsonl.lock");
          }
          return info.call == call && of_lock ? error : 0;
        });
        return LockManager().acquire(session.path, options);
      }();
      REQUIRE(!lock);
      CHECK(lock.error().code == Errc::timed_out);
      CHECK(lock.error().holder->basis == Basis::unreadable);
      CHECK(lock.error().holder->cause == std::error_code(error, std::system_category()));
      const std::string words = std::error_code(error, std::system_category()).message();
      CHECK(lock.error().message().find(words) != std::string::npos);
      CHECK(lock.error().holder->explanation().find(words) != std::string::npos);
    }
  }
  CHECK(fs::exists(session.lock));
  check_taken(session, {StaleReason::dead_pid});  // once it can be read
}

TEST_CASE("our own shortage fails the call at once under its own name") {
  const Session session;
  plant(session.lock, foreign_record(dead_pid()));
  AcquireOptions options;
  options.timeout = 1s;
  for (const auto call : {sys::Call::openat, sys::Call::fstat, sys::Call::pread}) {
    for (const int error : {EMFILE, ENFILE, ENOMEM}) {
      const Script script([&, is_lock = false](const sys::CallInfo& info) mutable {
        is_lock = is_lock || is_call_on(info, sys::Call::openat, "s.jsonl.lock");
        return is_lock && info.call == call ? error : 0;
      });
      const auto lock = LockManager().acquire(session.path, options);
      REQUIRE(!lock);
      CHECK(lock.error().code == std::error_code(error, std::system_category()));
      CHECK(lock.error().operation == sys::to_string(call));
    }
  }
  CHECK(fs::exists(session.lock));
}

TEST_CASE("a witness that cannot be asked keeps the lock that declares one") {
  // Protects: row 1, `evidence.witness_failure` (trap 13).
  const Session session;
  const auto fail_query = [](const sys::CallInfo& info) { return info.call == sys::Call::ofd_getlk ? EIO : 0; };
  SUBCASE("of this library") {
    auto holder = holder_of(session.path);
    (void)holder.kill();
    {
      const Script script(fail_query);
      CHECK(check_kept(session, k_greedy).basis == Basis::unreadable);
    }
    check_taken(session, {StaleReason::dead_pid});
  }
  SUBCASE("but not one that declares none") {
    plant(session.lock, foreign_record(dead_pid()));
    const Script script(fail_query);
    check_taken(session, {StaleReason::dead_pid});
  }
}

TEST_CASE("a process that cannot be asked about is not gone") {
  const Session session;
  plant(session.lock, foreign_record(dead_pid(), "7"));
  for (const int error : {EINVAL, EPERM}) {
    const Script script([error](const sys::CallInfo& info) { return info.call == sys::Call::kill ? error : 0; });
    CHECK(check_kept(session).pid_alive == (error == EPERM));
  }
}

TEST_CASE("a node that is no lock file is named at once, without waiting, and left in place") {
  const Session session;
  SUBCASE("a symbolic link to another lock") {
    plant(session.directory / "target", foreign_record(dead_pid()));
    fs::create_symlink("target", session.lock);
  }
  SUBCASE("a dangling symbolic link") {
    fs::create_symlink("nowhere", session.lock);
  }
  SUBCASE("a directory") {
    fs::create_directory(session.lock);
  }
  SUBCASE("a FIFO") {
    REQUIRE(::mkfifo(session.lock.c_str(), 0600) == 0);
  }
  SUBCASE("a socket") {
    REQUIRE(::mknod(session.lock.c_str(), S_IFSOCK | 0600, 0) == 0);
  }
  SUBCASE("64 MiB") {
    write_text(session.lock, foreign_record(dead_pid()));
    fs::resize_file(session.lock, std::uintmax_t{64} * 1024 * 1024);
  }
  const auto inode = inode_of(session.lock);
  AcquireOptions options;
  options.timeout = std::chrono::milliseconds::max();
  options.stale = k_greedy;
  const auto lock = LockManager().acquire(session.path, options);
  REQUIRE(!lock);
  CHECK(lock.error().code == Errc::not_a_lock_file);
  CHECK(lock.error().message().find(session.lock.string()) != std::string::npos);
  CHECK(LockManager().inspect(session.path).error().code == Errc::not_a_lock_file);
  CHECK(inode_of(session.lock) == inode);
}

TEST_CASE("a full or read-only file system leaves no lock behind, and does not look like contention") {
  std::string why_not;
  const auto full = TmpfsMount::mount("size=16k", &why_not);
  const auto read_only = TmpfsMount::mount("size=16k", &why_not);
  if (!full || !read_only) {
    skip_aloud("a tmpfs cannot be mounted: " + why_not);
    return;
  }
  write_text(*full / "filler", std::string(std::size_t{16} * 1024, 'x'));
  const auto no_space = LockManager().acquire(*full / "s");
  REQUIRE(!no_space);
  CHECK(no_space.error().code == std::errc::no_space_on_device);
  CHECK(names_in(full->path()) == std::vector<std::string>{"filler"});
  CHECK(LockManager().held().empty());
  fs::resize_file(*full / "filler", 0);
  CHECK(LockManager().acquire(*full / "s").has_value());
  REQUIRE(read_only->remount("ro"));
  const auto not_written = LockManager().acquire(*read_only / "s");
  REQUIRE(!not_written);
  CHECK(not_written.error().code == std::errc::read_only_file_system);
}

TEST_CASE("directories that cannot be made are named, with what the system says") {
  std::string why_not;
  const auto read_only = TmpfsMount::mount("size=16k", &why_not);
  if (!read_only) {
    skip_aloud("a tmpfs cannot be mounted: " + why_not);
    return;
  }
  REQUIRE(read_only->remount("ro"));
  const auto nested = LockManager().acquire(*read_only / "new/folder/s");
  REQUIRE(!nested);
  CHECK(nested.error().code == std::errc::read_only_file_system);
  CHECK(nested.error().message().find((*read_only / "new").string()) != std::string::npos);
  const Session session;
  ManagerOptions options;
  options.lock_directory = *read_only / "locks";
  const auto elsewhere = LockManager(options).acquire(session.path);
  REQUIRE(!elsewhere);
  CHECK(elsewhere.error().code == std::errc::read_only_file_system);
  CHECK(elsewhere.error().message().find(options.lock_directory.string()) != std::string::npos);
}

TEST_CASE("a session in directories that are yet to be made is free, also by a relative name") {
  const Session session;
  const WorkingDirectory here(session.directory.path());
  for (const fs::path& name : {fs::path("new/folder/s.jsonl"), session.directory / "new/folder/s.jsonl"}) {
    const auto free = LockManager().inspect(name);
    REQUIRE(free.has_value());
    CHECK(free->state == LockState::free);
    CHECK(!free->obstacle);
    CHECK(free->session_path == session.directory / "new/folder/s.jsonl");
    CHECK(free->lock_path == session.directory / "new/folder/s.jsonl.lock");
  }
  CHECK(LockManager().try_acquire("new/folder/s.jsonl").has_value());
}

TEST_CASE("in a working directory that was removed nothing is locked, and an acquire would fail") {
  const TemporaryDirectory directory;
  auto child = ChildProcess::run([&](Channel&) {
    fs::create_directory(directory / "gone");
    fs::current_path(directory / "gone");
    fs::remove(directory / "gone");
    ManagerOptions options;
    for (const char* const lock_directory : {"", "locks"}) {
      options.lock_directory = lock_directory;
      const auto free = LockManager(options).inspect("folder/s.jsonl");
      REQUIRE_IN_CHILD(free.has_value() && free->state == LockState::free);
      REQUIRE_IN_CHILD(free->session_path == "folder/s.jsonl");
      REQUIRE_IN_CHILD(free->obstacle == std::errc::no_such_file_or_directory);
      REQUIRE_IN_CHILD(!LockManager(options).try_acquire("folder/s.jsonl").has_value());
    }
    return 0;
  });
  CHECK(child.wait().exited_with(0));
}

// --- another user ----------------------------------------------------------------------------------------------------

namespace {

/// Runs as another user in the session's directory, which everybody may write to; paths are relative there, because
/// the way from the root may be root's alone.
Ended as_second_user(const Session& session, const std::function<void()>& body) {
  return ChildProcess::run([&](Channel&) {
           fs::current_path(session.directory.path());
           become_second_user();
           body();
           return 0;
         })
      .wait();
}

}  // namespace

TEST_CASE("another user's lock") {
  if (!can_become_second_user()) {
    skip_aloud("becoming another user needs root");
    return;
  }
  const Session session;
  fs::permissions(session.directory.path(), fs::perms::all);
  SUBCASE("that may not be read is waited for, and the time-out says why") {
    plant(session.lock, foreign_record(dead_pid()));
    CHECK(as_second_user(session, [] {
            AcquireOptions options;
            options.timeout = 50ms;
            const auto lock = LockManager().acquire("s.jsonl", options);
            REQUIRE_IN_CHILD(!lock && lock.error().code == Errc::timed_out);
            REQUIRE_IN_CHILD(lock.error().message().find("Permission denied") != std::string::npos);
          }).exited_with(0));
    CHECK(fs::exists(session.lock));
  }
  SUBCASE("of a live process is held, though that may not be signalled") {
    const auto owner = idle_process();
    plant(session.lock, foreign_record(owner.pid(), start_of(owner.pid())));
    fs::permissions(session.lock, fs::perms(0644));
    CHECK(as_second_user(session, [] {
            const auto lock = try_lock("s.jsonl", k_greedy);
            REQUIRE_IN_CHILD(!lock && lock.error().holder->owner == OwnerState::alive);
            REQUIRE_IN_CHILD(lock.error().holder->pid_alive);
          }).exited_with(0));
  }
  SUBCASE("that is stale is taken over where the directory allows it") {
    plant(session.lock, foreign_record(dead_pid()));
    fs::permissions(session.lock, fs::perms(0644));
    CHECK(as_second_user(session, [] { REQUIRE_IN_CHILD(try_lock("s.jsonl").has_value()); }).exited_with(0));
  }
  SUBCASE("that is stale in a sticky directory ends the acquire with what the system says") {
    plant(session.lock, foreign_record(dead_pid()));
    fs::permissions(session.lock, fs::perms(0644));
    REQUIRE(::chmod(session.directory.path().c_str(), 01777) == 0);
    CHECK(as_second_user(session, [] {
            AcquireOptions options;
            options.timeout = std::chrono::milliseconds::max();
            const auto lock = LockManager().acquire("s.jsonl", options);
            REQUIRE_IN_CHILD(!lock && lock.error().code == std::errc::operation_not_permitted);
            REQUIRE_IN_CHILD(lock.error().operation == "remove");
            REQUIRE_IN_CHILD(lock.error().detail.find("sticky") != std::string::npos);
          }).exited_with(0));
    CHECK(fs::exists(session.lock));
    check_taken(session, {StaleReason::dead_pid});
  }
}

TEST_CASE("where another user may not make a session's directory, an inspection says that an acquire would fail") {
  if (!can_become_second_user()) {
    skip_aloud("becoming another user needs root");
    return;
  }
  const Session session;
  fs::permissions(session.directory.path(), fs::perms(0755));
  CHECK(as_second_user(session, [] {
          const auto free = LockManager().inspect("new/folder/s.jsonl");
          REQUIRE_IN_CHILD(free.has_value() && free->state == LockState::free);
          REQUIRE_IN_CHILD(free->obstacle == std::errc::permission_denied);
        }).exited_with(0));
}

TEST_CASE("where another user may not remove a dead owner's lock, an inspection says that an acquire would fail") {
  if (!can_become_second_user()) {
    skip_aloud("becoming another user needs root");
    return;
  }
  const Session session;
  plant(session.lock, foreign_record(dead_pid()));
  fs::permissions(session.lock, fs::perms(0644));
  fs::permissions(session.directory.path(), fs::perms(0755));
  CHECK(as_second_user(session, [] {
          const auto stale = LockManager().inspect("s.jsonl");
          REQUIRE_IN_CHILD(stale.has_value() && stale->removable);
          REQUIRE_IN_CHILD(stale->obstacle == std::errc::permission_denied);
          REQUIRE_IN_CHILD(!LockManager().try_acquire("s.jsonl").has_value());
        }).exited_with(0));
}

// --- words -----------------------------------------------------------------------------------------------------------

TEST_CASE("a time-out reads as documented") {
  const Session session;
  const auto owner = idle_process();
  LockRecord record = record_of(owner.pid());
  record.created_at = created_at_ago(2h + 5min + 10s);
  record.label = "nightly";
  plant(session.lock, format_lock_record(record));
  const std::string holder =
      ": pid=" + std::to_string(owner.pid()) + " alive age=2h5m label=\"nightly\" " + session.lock.string();
  AcquireOptions options;
  options.timeout = 50ms;
  CHECK(LockManager().acquire(session.path, options).error().message() ==
        "session file locked (timeout 50ms)" + holder);
  CHECK(LockManager().try_acquire(session.path).error().message() == "session file locked (timeout 0ms)" + holder);
}

TEST_CASE("a time-out is measured on the monotonic clock") {
  CHECK(Deadline::Clock::is_steady);
}

TEST_CASE("an acquire that cannot be meant is refused") {
  LockManager manager;
  CHECK(manager.acquire("").error().code == Errc::invalid_argument);
  CHECK(manager.acquire("/").error().code == Errc::invalid_argument);
  CHECK(manager.inspect("").error().code == Errc::invalid_argument);
  CHECK(manager.wait_until_free("").error().code == Errc::invalid_argument);
  const Session session;
  AcquireOptions options;
  options.label = std::string(k_label_bytes_max + 1, 'x');
  CHECK(manager.acquire(session.path, options).error().code == Errc::invalid_argument);
  CHECK(!fs::exists(session.lock));
}
