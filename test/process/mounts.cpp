// Files that are mounted over names: over a session's, which gives the file a second name, and over a lock's.

#include <cerrno>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <system_error>

#include <doctest/doctest.h>
#include <sched.h>
#include <sys/mount.h>

#include <sessionlock/lock_manager.hpp>

#include "check_in.hpp"
#include "lock_tools.hpp"
#include "process.hpp"
#include "script.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;

namespace {

constexpr std::string_view k_unmount = "a file is mounted over its name; unmount that first";
const std::error_code k_busy{EBUSY, std::system_category()};

/// Runs a body, which may mount what it likes, in a mount namespace of its own. It is given an empty directory.
void among_mounts(const std::function<void(const fs::path&)>& body) {
  check_in({CLONE_NEWNS}, [&](Channel& parent) {
    const TemporaryDirectory directory;
    if (::mount("none", directory.path().c_str(), "tmpfs", 0, "size=1m") != 0) {
      return skip_from_inside(parent, "a tmpfs cannot be mounted");
    }
    body(directory.path());
    ::umount2(directory.path().c_str(), MNT_DETACH);
    return 0;
  });
}

void mount_over(const fs::path& file, const fs::path& name) {
  REQUIRE_IN_CHILD(::mount(file.c_str(), name.c_str(), nullptr, MS_BIND, nullptr) == 0);
}

Result<SessionLock> lock_among_aliases(const fs::path& session) {
  AcquireOptions options;
  options.allow_hard_links = true;
  return LockManager().try_acquire(session, options);
}

}  // namespace

TEST_CASE("a session over whose name a file is mounted is refused, and the error says what to do") {
  // Protects: `alias_words`. The file has a name elsewhere, where its lock is another.
  among_mounts([](const fs::path& directory) {
    write_text(directory / "elsewhere", "");
    write_text(directory / "s", "");
    mount_over(directory / "elsewhere", directory / "s");
    fs::create_symlink("s", directory / "link");
    for (const char* const name : {"s", "link"}) {
      const auto refused = try_lock(directory / name);
      REQUIRE_IN_CHILD(code_of(refused) == Errc::aliased_session);
      const std::string message = refused.error().message();
      REQUIRE_IN_CHILD(message.find("mount its directory instead") != std::string::npos);
      REQUIRE_IN_CHILD(message.find("--allow-hard-links") != std::string::npos);
    }
    REQUIRE_IN_CHILD(!fs::exists(directory / "s.lock"));
    REQUIRE_IN_CHILD(LockManager().inspect(directory / "s")->obstacle == Errc::aliased_session);
    REQUIRE_IN_CHILD(lock_among_aliases(directory / "s").has_value());
    REQUIRE_IN_CHILD(try_lock(directory / "elsewhere").has_value());
  });
}

TEST_CASE("a session in a directory that is mounted is like any other") {
  among_mounts([](const fs::path& directory) {
    fs::create_directory(directory / "real");
    fs::create_directory(directory / "view");
    write_text(directory / "real/s", "");
    mount_over(directory / "real", directory / "view");
    const auto lock = held(try_lock(directory / "view/s"));
    REQUIRE_IN_CHILD(code_of(try_lock(directory / "real/s")) == Errc::locked);
  });
}

TEST_CASE("a file that is mounted over the session's name while the lock is taken leaves no lock") {
  among_mounts([](const fs::path& directory) {
    write_text(directory / "elsewhere", "");
    write_text(directory / "s", "");
    const Script script(once_before([](const auto& info) { return is_call_on(info, sys::Call::linkat, "s.lock"); },
                                    [&] { mount_over(directory / "elsewhere", directory / "s"); }));
    REQUIRE_IN_CHILD(code_of(try_lock(directory / "s")) == Errc::aliased_session);
    REQUIRE_IN_CHILD(!fs::exists(directory / "s.lock"));
    REQUIRE_IN_CHILD(LockManager().held().empty());
  });
}

TEST_CASE("a dead lock over whose name a file is mounted cannot be taken over, and the error says why") {
  // Protects: the mount in `removal_ban`.
  among_mounts([](const fs::path& directory) {
    const fs::path lock = directory / "s.lock";
    plant(lock, foreign_record(dead_pid()));
    mount_over(lock, lock);
    const auto refused = try_lock(directory / "s");
    REQUIRE_IN_CHILD(code_of(refused) == k_busy);
    REQUIRE_IN_CHILD(refused.error().detail.find(k_unmount) != std::string::npos);
    const auto inspection = LockManager().inspect(directory / "s");
    REQUIRE_IN_CHILD(inspection->obstacle == k_busy);
    REQUIRE_IN_CHILD(inspection->obstacle_detail == refused.error().detail);
    REQUIRE_IN_CHILD(::umount2(lock.c_str(), MNT_DETACH) == 0);
    REQUIRE_IN_CHILD(try_lock(directory / "s").has_value());
  });
}

TEST_CASE("a lock over whose name a file is mounted cannot be released until that is gone, and the error says why") {
  // Protects: `Hold::explain_failure`.
  among_mounts([](const fs::path& directory) {
    auto lock = held(try_lock(directory / "s"));
    mount_over(directory / "s.lock", directory / "s.lock");
    const auto refused = lock.release();
    REQUIRE_IN_CHILD(code_of(refused) == k_busy);
    REQUIRE_IN_CHILD(refused.error().detail.find(k_unmount) != std::string::npos);
    REQUIRE_IN_CHILD(lock.owns());
    REQUIRE_IN_CHILD(::umount2((directory / "s.lock").c_str(), MNT_DETACH) == 0);
    REQUIRE_IN_CHILD(lock.release().has_value());
    REQUIRE_IN_CHILD(!fs::exists(directory / "s.lock"));
  });
}

TEST_CASE("a lock over whose name another file is mounted is lost") {
  among_mounts([](const fs::path& directory) {
    auto lock = held(try_lock(directory / "s"));
    write_text(directory / "elsewhere", "");
    mount_over(directory / "elsewhere", directory / "s.lock");
    REQUIRE_IN_CHILD(code_of(lock.guarded([] {})) == Errc::lost);
  });
}
