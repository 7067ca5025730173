// Which witnesses are declared, and what a free one proves, on real file systems and under other boot ids.

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include <doctest/doctest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sessionlock/lock_manager.hpp>
#include <sessionlock/pid_file.hpp>
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
/// Of an overlay whose layers lie in a scratch directory.
std::string overlay_options(const fs::path& scratch) {
  for (const char* name : {"lower", "upper", "work"}) {
    fs::create_directory(scratch / name);
  }
  return "lowerdir=" + (scratch / "lower").native() + ",upperdir=" + (scratch / "upper").native() +
         ",workdir=" + (scratch / "work").native();
}
void on_overlay(const std::function<void(const fs::path&)>& body) {
  on_mounted("overlay", overlay_options, body);
}
void mount_overlay(const fs::path& scratch, const fs::path& at) {
  fs::create_directory(at);
  REQUIRE_IN_CHILD(::mount("overlay", at.c_str(), "overlay", 0, overlay_options(scratch).c_str()) == 0);
}

std::uint64_t device_of(const fs::path& directory) {
  struct stat status {};
  REQUIRE_IN_CHILD(::stat(directory.c_str(), &status) == 0);
  return status.st_dev;
}

/// Unmounts what `on_overlay` has mounted and mounts it again under another device number, as happens to a container
/// that is started again while others come and go.
void mount_again(const fs::path& mounted) {
  const fs::path scratch = mounted.parent_path();
  const std::uint64_t before = device_of(mounted);
  fs::create_directory(scratch / "other");
  for (int attempt = 0; attempt < 100; ++attempt) {
    REQUIRE_IN_CHILD(::umount2(mounted.c_str(), 0) == 0);
    if (attempt > 0) {  // takes the number
      REQUIRE_IN_CHILD(::mount("none", (scratch / "other").c_str(), "tmpfs", 0, "size=4k") == 0);
    }
    mount_overlay(scratch, mounted);
    if (device_of(mounted) != before) {
      return;
    }
  }
  REQUIRE_IN_CHILD(device_of(mounted) != before);
}

/// What comes out in a PID namespace of its own: processes of other ones cannot be asked about there.
template <class F>
void in_another_pid_namespace(F&& body) {
  const auto run = run_in_namespaces({CLONE_NEWNS | CLONE_NEWPID}, [&](Channel&) {
    body();
    return 0;
  });
  REQUIRE_IN_CHILD(run.why_not.empty());
  REQUIRE_IN_CHILD(run.ended.exited_with(0));
}

/// A lock whose owner died with it, in a PID namespace that has gone with it.
void leave_lock(const fs::path& session) {
  in_another_pid_namespace([&] {
    const auto lock = try_lock(session);  // no destructor runs
    REQUIRE_IN_CHILD(lock.has_value());
    ::_exit(0);
  });
  REQUIRE_IN_CHILD(fs::exists(session.native() + ".lock"));
}

/// A file system in a file, attached as a block device for the length of a scope.
class LoopDevice {
 public:
  explicit LoopDevice(const fs::path& image) {
    name_ = run_command({"losetup", "-f", "--show", image.native()}).out;
    name_.erase(std::min(name_.find('\n'), name_.size()));
  }
  ~LoopDevice() { (void)run_command({"losetup", "-d", name_}); }
  LoopDevice(const LoopDevice&) = delete;
  LoopDevice& operator=(const LoopDevice&) = delete;

  [[nodiscard]] bool mount_at(const fs::path& directory) const {
    return !name_.empty() && ::mount(name_.c_str(), directory.c_str(), "ext4", 0, nullptr) == 0;
  }

 private:
  std::string name_;
};

/// A body that runs where a small ext4 in a file is mounted; it is given the file and the directory. What it mounts it
/// unmounts again, so that the device can be freed.
void on_disk(const std::function<void(const fs::path& image, const fs::path& mounted)>& body) {
  check_in({CLONE_NEWNS}, [&](Channel& parent) {
    const TemporaryDirectory scratch;
    const fs::path image = scratch / "image";
    const fs::path mounted = scratch / "mounted";
    fs::create_directory(mounted);
    write_text(image, "");
    fs::resize_file(image, std::uintmax_t{8} << 20U);
    if (!run_command({"mkfs.ext4", "-q", image.native()}).ended.exited_with(0)) {
      return skip_from_inside(parent, "mkfs.ext4 cannot be run");
    }
    const LoopDevice device(image);
    if (!device.mount_at(mounted)) {
      return skip_from_inside(parent, "a file cannot be mounted");
    }
    body(image, mounted);
    return 0;
  });
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

// --- the same file on a device with another number -------------------------------------------------------------------

TEST_CASE("an owner that died before its overlay was mounted again under another device number is gone") {
  // Protects: `needs_lock_list` in classify.cpp.
  on_overlay([](const fs::path& directory) {
    leave_lock(directory / "s");
    mount_again(directory);
    const auto lock = try_lock(directory / "s", k_proof_only);
    REQUIRE_IN_CHILD(lock.has_value());
    REQUIRE_IN_CHILD(lock->reclaimed_from()->reasons.front() == StaleReason::orphaned);
  });
}

TEST_CASE("a claim that ended before its overlay was mounted again under another device number is taken over") {
  // Protects: `find_witness` in pid_inspector.cpp.
  on_overlay([](const fs::path& directory) {
    const fs::path path = directory / "serve.pid";
    in_another_pid_namespace([&] {
      const auto claim = PidFile::claim(path, {});  // no destructor runs
      REQUIRE_IN_CHILD(claim && claim->file);
      ::_exit(0);
    });
    mount_again(directory);
    REQUIRE_IN_CHILD(inspect_pid_file(path)->reason == PidFileReason::orphaned);
    const auto claim = PidFile::claim(path, {});
    REQUIRE_IN_CHILD(claim && claim->file);
  });
}

TEST_CASE("an owner that died before its disk was attached under another device number is gone") {
  on_disk([](const fs::path& image, const fs::path& mounted) {
    leave_lock(mounted / "s");
    const std::uint64_t before = device_of(mounted);
    REQUIRE_IN_CHILD(::umount2(mounted.c_str(), 0) == 0);
    const LoopDevice second(image);
    REQUIRE_IN_CHILD(second.mount_at(mounted));
    REQUIRE_IN_CHILD(device_of(mounted) != before);
    {
      const auto lock = try_lock(mounted / "s", k_proof_only);
      REQUIRE_IN_CHILD(lock.has_value());
      REQUIRE_IN_CHILD(lock->reclaimed_from()->reasons.front() == StaleReason::orphaned);
    }
    REQUIRE_IN_CHILD(::umount2(mounted.c_str(), 0) == 0);
  });
}

TEST_CASE("a copy of a living owner's lock on a copy of its disk is held until that owner is gone") {
  // Protects: the list of locks in `find_witness`. Snapshots are alike.
  on_disk([](const fs::path& image, const fs::path& mounted) {
    auto holder = holder_of(mounted / "s");
    ::sync();
    const fs::path copied_image = image.native() + ".copy";
    const fs::path copy = mounted.native() + ".copy";
    fs::copy_file(image, copied_image);
    fs::create_directory(copy);
    const LoopDevice second(copied_image);
    REQUIRE_IN_CHILD(second.mount_at(copy));
    REQUIRE_IN_CHILD(fs::exists(copy / "s.lock"));
    in_another_pid_namespace([&] { REQUIRE_IN_CHILD(basis_at(copy / "s") == Basis::undecided); });
    (void)holder.kill();
    in_another_pid_namespace([&] { REQUIRE_IN_CHILD(basis_at(copy / "s") == Basis::witness_free); });
    REQUIRE_IN_CHILD(::umount2(copy.c_str(), 0) == 0);
    REQUIRE_IN_CHILD(::umount2(mounted.c_str(), 0) == 0);
  });
}

TEST_CASE("an owner that lives on another mount of the same overlay keeps its lock, which looks free from here") {
  // Protects: the list of locks in `find_witness`.
  enum class Then { dies, is_detached, cannot_be_listed };
  for (const Then then : {Then::dies, Then::is_detached, Then::cannot_be_listed}) {
    on_overlay([then](const fs::path& directory) {
      const fs::path second = directory.parent_path() / "second";
      auto holder = holder_of(directory / "s");
      mount_overlay(directory.parent_path(), second);
      REQUIRE_IN_CHILD(device_of(directory) != device_of(second));
      if (then == Then::is_detached) {
        REQUIRE_IN_CHILD(::umount2(directory.c_str(), MNT_DETACH) == 0);
      }
      in_another_pid_namespace([&] {
        REQUIRE_IN_CHILD(basis_at(second / "s") == Basis::undecided);
        REQUIRE_IN_CHILD(code_of(try_lock(second / "s", k_proof_only)) == Errc::locked);
      });
      (void)holder.kill();
      in_another_pid_namespace([&] {
        if (then == Then::cannot_be_listed) {
          REQUIRE_IN_CHILD(::mount("/dev/null", "/proc/locks", nullptr, MS_BIND, nullptr) == 0);
        }
        const auto basis = then == Then::cannot_be_listed ? Basis::undecided : Basis::witness_free;
        REQUIRE_IN_CHILD(basis_at(second / "s") == basis);
      });
      ::umount2(second.c_str(), MNT_DETACH);
    });
  }
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
