// Which witnesses are declared, and what a free one proves, on real file systems and under other boot ids.

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include <doctest/doctest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <sessionlock/lock_manager.hpp>
#include <sessionlock/process_identity.hpp>

#include "check_in.hpp"
#include "lock_tools.hpp"
#include "process.hpp"
#include "publishing.hpp"
#include "record/witness.hpp"
#include "script.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;

namespace {

constexpr std::string_view k_another_boot = "11111111-2222-3333-4444-555555555555";
/// Nothing may go by age.
constexpr StalePolicy k_proof_only{24h, 24h, AgedUnverified::keep, UnknownOwner::hold};

/// A body that runs where a file system is mounted, in a mount namespace of its own; it is given the directory.
void on_mounted(const char* type, const std::function<std::string(const fs::path&)>& make_options,
                const std::function<void(const fs::path&)>& body) {
  check_in({CLONE_NEWNS}, [&](Channel& parent) {
    const TemporaryDirectory scratch;
    if (::mount("none", scratch.path().c_str(), "tmpfs", 0, "size=1m") != 0) {
      return skip_from_inside(parent, "a tmpfs cannot be mounted");
    }
    const fs::path mounted = scratch / "mounted";
    fs::create_directory(mounted);
    if (::mount(type, mounted.c_str(), type, 0, make_options(scratch.path()).c_str()) != 0) {
      return skip_from_inside(parent, std::string(type) + " cannot be mounted");
    }
    body(mounted);
    ::umount2(mounted.c_str(), MNT_DETACH);
    ::umount2(scratch.path().c_str(), MNT_DETACH);
    return 0;
  });
}

void on_tmpfs(const std::function<void(const fs::path&)>& body) {
  on_mounted(
      "tmpfs", [](const fs::path&) { return std::string("size=64k"); }, body);
}
void on_ramfs(const std::function<void(const fs::path&)>& body) {
  on_mounted(
      "ramfs", [](const fs::path&) { return std::string(); }, body);
}
void on_overlay(const std::function<void(const fs::path&)>& body) {
  const auto make_options = [](const fs::path& scratch) {
    for (const char* name : {"lower", "upper", "work"}) {
      fs::create_directory(scratch / name);
    }
    return "lowerdir=" + (scratch / "lower").native() + ",upperdir=" + (scratch / "upper").native() +
           ",workdir=" + (scratch / "work").native();
  };
  on_mounted("overlay", make_options, body);
}

FileIdentity identity_at(const fs::path& file) {
  struct stat status {};
  REQUIRE_IN_CHILD(::stat(file.c_str(), &status) == 0);
  return {status.st_dev, status.st_ino};
}

/// A lock of this library that nobody holds, with this form of witness on its own file. Its pid is nobody's to compare.
void plant_left_behind(const fs::path& lock, WitnessForm form, const std::function<void(LockRecord&)>& change) {
  plant(lock, "");
  LockRecord record = own_record();
  record.witness = format_witness({form, identity_at(lock)});
  change(record);
  write_text(lock, format_lock_record(record));
}

void of_another_boot(LockRecord& record) {
  record.boot_id = k_another_boot;
}
void of_another_namespace(LockRecord& record) {
  record.pid_namespace = *record.pid_namespace + 1;
}

Basis basis_at(const fs::path& session) {
  const auto found = LockManager().inspect(session, {.stale = k_proof_only});
  return found ? found->basis : Basis::no_file;
}

/// The witness that a lock has there, and its form in the record; empty: it declares none.
std::string form_declared_at(const fs::path& directory) {
  const auto lock = value_or_throw(LockManager().try_acquire(directory / "s"));
  const PinnedLock pinned = pinned_at(place_in(directory, "s.lock"));
  REQUIRE_IN_CHILD(query_witness(pinned).query == WitnessQuery::write_locked);
  REQUIRE_IN_CHILD(lock.record() == pinned.content->record);
  const std::string text = lock.record().witness.value_or("");
  return text.substr(0, text.find(':'));
}

}  // namespace

TEST_CASE("a witness is declared as this kernel's own on a local file system, and as an overlay's on an overlay") {
  on_tmpfs([](const fs::path& directory) { REQUIRE_IN_CHILD(form_declared_at(directory) == "ofd2"); });
  on_overlay([](const fs::path& directory) { REQUIRE_IN_CHILD(form_declared_at(directory) == "ofd"); });
}

TEST_CASE("on a file system that may belong to other kernels a witness is held, but not declared") {
  on_ramfs([](const fs::path& directory) { REQUIRE_IN_CHILD(form_declared_at(directory).empty()); });
}

TEST_CASE("a free witness of a local file system proves its owner dead under any boot id") {
  on_tmpfs([](const fs::path& directory) {
    plant_left_behind(directory / "s.lock", WitnessForm::ofd2, of_another_boot);
    const auto lock = try_lock(directory / "s", k_proof_only);
    REQUIRE_IN_CHILD(lock && lock->reclaimed_from()->reasons.front() == StaleReason::orphaned);
  });
}

TEST_CASE("a free witness that was not declared as this kernel's own proves nothing under another boot id") {
  on_tmpfs([](const fs::path& directory) {
    plant_left_behind(directory / "s.lock", WitnessForm::ofd, of_another_boot);
    REQUIRE_IN_CHILD(basis_at(directory / "s") == Basis::undecided);
    fs::remove(directory / "s.lock");
    plant_left_behind(directory / "s.lock", WitnessForm::ofd, of_another_namespace);
    REQUIRE_IN_CHILD(basis_at(directory / "s") == Basis::witness_free);
  });
}

TEST_CASE("on an overlay a free witness proves something only under the same boot id") {
  on_overlay([](const fs::path& directory) {
    for (const WitnessForm form : {WitnessForm::ofd, WitnessForm::ofd2}) {
      plant_left_behind(directory / "a.lock", form, of_another_boot);
      REQUIRE_IN_CHILD(basis_at(directory / "a") == Basis::undecided);
      fs::remove(directory / "a.lock");
      plant_left_behind(directory / "a.lock", form, of_another_namespace);
      REQUIRE_IN_CHILD(basis_at(directory / "a") == Basis::witness_free);
      fs::remove(directory / "a.lock");
    }
  });
}

TEST_CASE("a free witness proves nothing where the file itself is of a file system that other kernels may have") {
  // Protects: `locality_of_file`. The directory is local; the file was mounted over the name in it.
  on_ramfs([](const fs::path& foreign) {
    const TemporaryDirectory local;
    plant_left_behind(foreign / "file", WitnessForm::ofd2, of_another_boot);
    write_text(local / "s.lock", "");
    REQUIRE_IN_CHILD(::mount((foreign / "file").c_str(), (local / "s.lock").c_str(), nullptr, MS_BIND, nullptr) == 0);
    REQUIRE_IN_CHILD(basis_at(local / "s") == Basis::undecided);
    REQUIRE_IN_CHILD(::umount2((local / "s.lock").c_str(), MNT_DETACH) == 0);
  });
}

TEST_CASE("a killed holder in a container with a boot id of its own is recognised as dead") {
  const Session session;
  const TemporaryDirectory scratch;
  write_text(scratch / "boot_id", std::string(k_another_boot) + "\n");
  check_in({CLONE_NEWNS | CLONE_NEWPID}, [&](Channel& parent) {
    if (::mount((scratch / "boot_id").c_str(), "/proc/sys/kernel/random/boot_id", nullptr, MS_BIND, nullptr) != 0) {
      return skip_from_inside(parent, "a file cannot be mounted over the boot id");
    }
    auto holder = ChildProcess::run([&](Channel& tester) {
      const auto lock = held(try_lock(session.path));
      tester.tell(lock.record().boot_id.value_or(""));
      (void)tester.hear();
      return 0;
    });
    REQUIRE_IN_CHILD(*holder.hear() == k_another_boot);
    (void)holder.kill();
    return 0;
  });
  REQUIRE(fs::exists(session.lock));
  const auto lock = try_lock(session.path, k_proof_only);
  REQUIRE_MESSAGE(lock.has_value(), (lock ? "" : lock.error().message()));
  CHECK(lock->reclaimed_from()->reasons.front() == StaleReason::orphaned);
}

TEST_CASE("another program's lock that names this process and is older than it was left by another with that pid") {
  const std::string text = foreign_record(::getpid());
  const Session written_now;
  plant(written_now.lock, text);
  CHECK(basis_at(written_now.path) == Basis::unverified);
  const Session left_behind;
  plant(left_behind.lock, text);
  make_older(left_behind.lock, 10LL * 365 * 24 * 3600s);
  const auto lock = try_lock(left_behind.path, k_proof_only);
  REQUIRE_MESSAGE(lock.has_value(), (lock ? "" : lock.error().message()));
  CHECK(lock->reclaimed_from()->reasons.front() == StaleReason::orphan_self_pid);
  // The witness is held by another process.
  const Session held_by_another;
  const auto holder = holder_of(held_by_another.path);
  write_text(held_by_another.lock, text);
  make_older(held_by_another.lock, 10LL * 365 * 24 * 3600s);
  CHECK(basis_at(held_by_another.path) == Basis::witness_held);
}
