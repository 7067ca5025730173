// On a FUSE file system that knows paths, not files (bindfs, by the high-level interface of libfuse): to the kernel
// each name of a file is a file of its own there, and a lock that was taken through one binds nobody who came by
// another.

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sessionlock/lock_manager.hpp>
#include <sessionlock/pid_file.hpp>
#include <sessionlock/transcript.hpp>

#include "check_in.hpp"
#include "lock_tools.hpp"
#include "process.hpp"
#include "protocol/directory.hpp"
#include "sanitizers.hpp"
#include "script.hpp"

using namespace sessionlock;
using namespace sessionlock::test;
namespace fs = std::filesystem;

namespace {

bool is_fuse(const fs::path& directory) {
  constexpr auto k_fuse_magic = 0x65735546;
  struct statfs status {};
  return ::statfs(directory.c_str(), &status) == 0 && status.f_type == k_fuse_magic;
}

/// Runs `body` where temporary directories lie on such a file system, and tells it what that shows.
void on_fuse(const std::function<void(const fs::path& shown)>& body) {
  const TemporaryDirectory source;
  const TemporaryDirectory mounted;
  check_in({CLONE_NEWNS | CLONE_NEWPID}, [&](Channel& parent) {
    if (!fs::exists("/dev/fuse")) {
      return skip_from_inside(parent, "this kernel has no FUSE");
    }
    const pid_t server = ::fork();
    if (server == 0) {
      ::execlp("bindfs", "bindfs", "-f", source.path().c_str(), mounted.path().c_str(), nullptr);
      ::_exit(127);
    }
    bool has_ended = false;
    wait_until("bindfs has mounted its directory", [&] {
      has_ended = ::waitpid(server, nullptr, WNOHANG) == server;
      return has_ended || is_fuse(mounted.path());
    });
    if (has_ended) {
      return skip_from_inside(parent, "bindfs cannot be run");
    }
    ::setenv("TMPDIR", mounted.path().c_str(), 1);
    body(source.path());
    return 0;
  });
}

FileSystemTraits& traits_at(const Session& session) {
  return *value_or_throw(open_directory(session.directory.path()))->traits;
}

/// Whether a guarded write keeps out whoever opens the lock by its name.
bool guards(const SessionLock& lock) {
  bool is_kept_out = false;
  return lock.guarded([&] { is_kept_out = !is_unguarded(lock.lock_path()); }).has_value() && is_kept_out;
}

bool opens_lock(const sys::CallInfo& info) {
  return is_call_on(info, sys::Call::openat, "s.jsonl.lock");
}

}  // namespace

TEST_CASE("where each name is a file to the kernel, that is noticed, and no witness is declared") {
  on_fuse([](const fs::path&) {
    const Session session;
    {
      const auto lock = held(try_lock(session.path));
      REQUIRE_IN_CHILD(traits_at(session).locks_are_per_name.load());
      REQUIRE_IN_CHILD(!lock.record().witness);
      REQUIRE_IN_CHILD(lock.verify().has_value());
      REQUIRE_IN_CHILD(guards(lock));
      REQUIRE_IN_CHILD(names_in(session.directory.path()) == std::vector<std::string>{"s.jsonl.lock"});
    }
    REQUIRE_IN_CHILD(names_in(session.directory.path()).empty());
  });
}

TEST_CASE("where each name is a file to the kernel, a take-over is undone by a second name") {
  // Protects: `OwnFile::link_and_rename`.
  on_fuse([](const fs::path&) {
    const Session session;
    const auto dead = dead_pid();
    plant(session.lock, foreign_record(dead));
    const fs::path link = session.directory / "link";
    fs::create_symlink("s.jsonl", link);
    {
      const Script script(
          once_before([](const sys::CallInfo& info) { return is_call_on(info, sys::Call::renameat, "s.jsonl.lock"); },
                      [&] {
                        fs::remove(link);
                        fs::create_symlink("other", link);
                      }));
      REQUIRE_IN_CHILD(!held(try_lock(link)).reclaimed_from());
    }
    const auto next = held(try_lock(session.path));
    REQUIRE_IN_CHILD(next.reclaimed_from() && next.reclaimed_from()->record.pid == dead);
    const std::vector<std::string> names = {"link", "s.jsonl.lock"};
    REQUIRE_IN_CHILD(names_in(session.directory.path()) == names);
  });
}

TEST_CASE("where each name is a file to the kernel, force waits for a guarded write, and fences the writer after it") {
  // Protects: `NamedLock::open`. Without it force came between a stopped writer's look and its write.
  on_fuse([](const fs::path&) {
    const Session session;
    auto holder = ChildProcess::run([&](Channel& parent) {
      const auto lock = held(try_lock(session.path));
      const auto written = lock.guarded([&] {
        parent.tell(*lock.record().lock_id);
        (void)parent.hear();
      });
      REQUIRE_IN_CHILD(written.has_value());
      parent.tell("written");
      (void)parent.hear();
      bool ran = false;
      REQUIRE_IN_CHILD(code_of(lock.guarded([&] { ran = true; })) == Errc::lost && !ran);
      return 0;
    });
    const std::string id = *holder.hear();
    REQUIRE_IN_CHILD(code_of(LockManager().force_release(session.path, id, true)) == Errc::locked);
    holder.tell("write");
    holder.expect("written");
    REQUIRE_IN_CHILD(LockManager().force_release(session.path, id, true).has_value());
    const auto successor = held(try_lock(session.path));
    holder.tell("write again");
    REQUIRE_IN_CHILD(holder.wait().exited_with(0));
    REQUIRE_IN_CHILD(successor.verify().has_value());
  });
}

TEST_CASE("where each name is a file to the kernel, a killed starter's program keeps the lock until its own end") {
  // Protects: the witness that `publish_by_name` takes.
  on_fuse([](const fs::path&) {
    const Session session;
    auto starter = ChildProcess::run([&](Channel& parent) {
      const auto lock = held(try_lock(session.path));
      char name[] = "sleep";
      char time[] = "1000";
      char* const arguments[] = {name, time, nullptr};
      parent.tell(std::to_string(value_or_throw(lock.spawn_with(name, arguments, environ))));
      (void)parent.hear();
      return 0;
    });
    const pid_t program = std::stoi(*starter.hear());
    (void)starter.kill();
    const auto refused = try_lock(session.path);
    REQUIRE_IN_CHILD(!refused && refused.error().holder->basis == Basis::witness_inherited);
    ::kill(program, SIGKILL);
    wait_until("the program is gone", [&] { return try_lock(session.path).has_value(); });
  });
}

TEST_CASE(
    "where each name is a file to the kernel, a lock that is taken away before it is opened by its name is lost") {
  // Protects: the comparison in `NamedLock::open`.
  on_fuse([](const fs::path&) {
    const Session session;
    const auto owner = idle_process();
    bool has_gone = false;
    const Script script(once_before(opens_lock, [&] {
      has_gone = fs::remove(session.lock);
      plant(session.lock, foreign_record(owner.pid()));
    }));
    const auto refused = try_lock(session.path);
    REQUIRE_IN_CHILD(has_gone && !refused && refused.error().holder->record.pid == owner.pid());
  });
}

TEST_CASE(
    "where each name is a file to the kernel, another program's empty file is not taken for what is left of ours") {
  // Protects: that `NamedLock::is_ours` asks for the candidate's inode, because the beginning of every record is like
  // every other's.
  on_fuse([](const fs::path&) {
    const Session session;
    for (const std::string_view begun : {"", "{\n  \"pid\": "}) {
      const Script script(once_before(opens_lock, [&] {
        fs::remove(session.lock);
        plant(session.lock, begun);  // it creates first and writes then
      }));
      REQUIRE_IN_CHILD(code_of(try_lock(session.path)) == Errc::locked);
      REQUIRE_IN_CHILD(read_text(session.lock) == begun);
      fs::remove(session.lock);
    }
  });
}

TEST_CASE("where each name is a file to the kernel, a lock that cannot be opened by its name is not left behind") {
  on_fuse([](const fs::path&) {
    const Session session;
    bool has_failed = false;
    const Script script(
        [&](const sys::CallInfo& info) { return opens_lock(info) && !std::exchange(has_failed, true) ? EMFILE : 0; });
    const auto refused = try_lock(session.path);
    REQUIRE_IN_CHILD(has_failed && !refused && refused.error().code == std::errc::too_many_files_open);
    REQUIRE_IN_CHILD(names_in(session.directory.path()).empty());
    REQUIRE_IN_CHILD(try_lock(session.path).has_value());
  });
}

TEST_CASE("where each name is a file to the kernel, a PID file is released under a lock that others see, too") {
  on_fuse([](const fs::path&) {
    const TemporaryDirectory directory;
    const auto path = directory / "d.pid";
    bool guarded = false;
    {
      auto claimed = value_or_throw(PidFile::claim(path));
      const Script script(outermost([&](const sys::CallInfo& info) {
        guarded = guarded || (is_call_on(info, sys::Call::unlinkat, "d.pid") && !is_unguarded(path));
        return 0;
      }));
      REQUIRE_IN_CHILD(claimed.file->release().has_value());
    }
    REQUIRE_IN_CHILD(guarded);
    REQUIRE_IN_CHILD(names_in(directory.path()).empty());
  });
}

#if !SESSIONLOCK_THREAD_SANITIZER  // which cannot follow a raw clone(2)
TEST_CASE("where each name is a file to the kernel, that is noticed beside a child that is just being started") {
  // Protects: LOCK_UN in `LocksDropped` and `try_names_once`.
  //   1. A tries a flock through a second descriptor.   2. B, a child of another thread of the process, has a copy of
  //   that until its exec.   3. A closes its own.   4. A must not take B's flock for a sign that the names are one
  //   file.
  for (const int before : {2, 3, 4, 5, 6, 7, 8}) {
    on_fuse([before](const fs::path&) {
      const Session session;
      int flocks = 0;
      pid_t child = 0;
      const Script script([&](const sys::CallInfo& info) {
        if (info.call == sys::Call::flock && ++flocks == before) {
          child = static_cast<pid_t>(::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));  // as posix_spawn(3), without handlers
          if (child == 0) {
            ::pause();
          }
        }
        return 0;
      });
      const auto lock = held(try_lock(session.path));
      REQUIRE_IN_CHILD(child > 0 && traits_at(session).locks_are_per_name.load());
      ::kill(child, SIGKILL);
      ::waitpid(child, nullptr, 0);
      REQUIRE_IN_CHILD(guards(lock));
    });
  }
}
#endif

TEST_CASE(
    "where each name is a file to the kernel, a lock that was linked is opened by its name whatever others found out") {
  // Protects: that `publish_by_name` never renames.
  on_fuse([](const fs::path&) {
    const Session session;
    (void)held(try_lock(session.path));
    FileSystemTraits& traits = traits_at(session);
    const auto keep = value_or_throw(open_directory(session.directory.path()));
    const Script script(
        once_before([](const sys::CallInfo& info) { return is_call_on(info, sys::Call::linkat, ".lock"); },
                    [&] { traits.naming.store(Naming::temporary_rename); }));
    const auto lock = held(try_lock(session.path));
    REQUIRE_IN_CHILD(guards(lock));
  });
}

TEST_CASE(
    "where each name is a file to the kernel, EPERM of a link is another's being faster, and not the want of links") {
  // Protects: `link_by_name`. sshfs says so of a name that came between the kernel's look and the server's.
  on_fuse([](const fs::path&) {
    const Session session;
    (void)held(try_lock(session.path));
    int refusals = 1;
    const Script script([&](const sys::CallInfo& info) {
      return is_call_on(info, sys::Call::linkat, ".lock") && refusals-- > 0 ? EPERM : 0;
    });
    {
      const auto lock = held(try_lock(session.path));  // nobody had it
      refusals = 1;
      REQUIRE_IN_CHILD(
          ChildProcess::run([&](Channel&) { return code_of(try_lock(session.path)) == Errc::locked ? 0 : 1; })
              .wait()
              .exited_with(0));
    }
    refusals = 1000;
    REQUIRE_IN_CHILD(code_of(try_lock(session.path)) == std::errc::operation_not_permitted);
    refusals = 0;
    REQUIRE_IN_CHILD(try_lock(session.path).has_value());
  });
}

TEST_CASE("where each name is a file to the kernel, a lock has its permissions before it has its name") {
  on_fuse([](const fs::path& shown) {
    constexpr gid_t k_team = 23453;
    const Session session;
    const fs::path real = shown / session.directory.path().filename();
    write_text(session.path, "");
    REQUIRE_IN_CHILD(::chown(session.path.c_str(), 0, k_team) == 0);
    REQUIRE_IN_CHILD(::chmod(session.path.c_str(), 0660) == 0);
    struct stat status {};
    bool had_others = false;
    for (int turn = 0; turn < 2; ++turn) {  // the first finds out what the file system is
      const Script script([&](const sys::CallInfo&) {
        const bool is_named = ::lstat((real / "s.jsonl.lock").c_str(), &status) == 0;
        had_others = had_others || (is_named && ((status.st_mode & 07777) != 0640 || status.st_gid != k_team));
        return 0;
      });
      const auto lock = held(try_lock(session.path));
      REQUIRE_IN_CHILD(traits_at(session).locks_are_per_name.load());
      REQUIRE_IN_CHILD(::lstat((real / "s.jsonl.lock").c_str(), &status) == 0);
      REQUIRE_IN_CHILD((status.st_mode & 07777) == 0640 && status.st_gid == k_team);
    }
    REQUIRE_IN_CHILD(!had_others);
  });
}

TEST_CASE("where each name is a file to the kernel, a record that is not all there by the lock's name is an error") {
  // Protects: the second comparison in `NamedLock::open`.
  on_fuse([](const fs::path&) {
    const Session session;
    const Script script(once_before(opens_lock, [&] { fs::resize_file(session.lock, 7); }));
    REQUIRE_IN_CHILD(code_of(try_lock(session.path)) == std::errc::io_error);
    REQUIRE_IN_CHILD(names_in(session.directory.path()).empty());
  });
}

TEST_CASE("where each name is a file to the kernel, the record is written before it gets the lock's name") {
  // Protects: `sync` in `prepare`, per_name_locks.cpp.
  on_fuse([](const fs::path&) {
    const Session session;
    (void)held(try_lock(session.path));
    bool is_synced = false;
    const Script script([&](const sys::CallInfo& info) {
      is_synced = is_synced || info.call == sys::Call::fsync;
      REQUIRE_IN_CHILD(is_synced || !is_call_on(info, sys::Call::linkat, ".lock"));
      return 0;
    });
    REQUIRE_IN_CHILD(try_lock(session.path).has_value());
  });
}

TEST_CASE("a lock that is removed behind the back of a file system that knows paths is lost") {
  // Protects: ENOENT in `HoldCore::look_at_descriptor`.
  on_fuse([](const fs::path& shown) {
    const Session session;
    const auto lock = held(try_lock(session.path));
    REQUIRE_IN_CHILD(fs::remove(shown / session.directory.path().filename() / "s.jsonl.lock"));
    wait_until("the kernel asks again", [&] { return code_of(lock.verify()) == Errc::lost; });
    bool ran = false;
    REQUIRE_IN_CHILD(code_of(lock.guarded([&] { ran = true; })) == Errc::lost && !ran);
    REQUIRE_IN_CHILD(try_lock(session.path).has_value());
  });
}

// --- file systems that other kernels may change as well
// ----------------------------------------------------------------

namespace {

/// The calls of a guarded append of one record that a server would see, in their order.
std::vector<sys::Call> calls_of_append(const SessionLock& lock, Transcript& transcript) {
  std::vector<sys::Call> calls;
  const Script script([&](const sys::CallInfo& info) {
    if (info.call == sys::Call::statx || info.call == sys::Call::fsync || info.call == sys::Call::flock ||
        is_call_on(info, sys::Call::fstatat, ".lock")) {
      calls.push_back(info.call);
    }
    return 0;
  });
  REQUIRE_IN_CHILD(transcript.append("{}").has_value());
  REQUIRE_IN_CHILD(lock.owns());
  return calls;
}

}  // namespace

TEST_CASE(
    "where other kernels change a directory, too, a guarded write asks the server before it compares, and syncs") {
  // Protects: `ask_about_names` in `names_inode`; `must_sync` in transcript.cpp. With real servers: scripts/vm-tests.
  on_fuse([](const fs::path&) {
    const Session session;
    auto lock = held(try_lock(session.path));
    auto transcript = value_or_throw(Transcript::open(lock));
    using enum sys::Call;
    REQUIRE_IN_CHILD(calls_of_append(lock, transcript) == std::vector{flock, statx, fstatat, fsync, flock});
  });
}

TEST_CASE("on a local file system a guarded write asks no server and syncs nothing that it need not") {
  const Session session;
  auto lock = held(try_lock(session.path));
  auto transcript = value_or_throw(Transcript::open(lock));
  using enum sys::Call;
  CHECK(calls_of_append(lock, transcript) == std::vector{flock, fstatat, flock});
}
