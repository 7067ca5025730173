// What `check_file_system` finds on real file systems, and on ones that refuse a call.

#include <sessionlock/file_system_check.hpp>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>

#include "check_in.hpp"
#include "lock_tools.hpp"
#include "process.hpp"
#include "script.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;

namespace {

/// A body that runs where a file system of this type is mounted on a directory, in a namespace of its own.
void on_mounted(const char* type, const char* options, const std::function<void(const fs::path&)>& body) {
  const TemporaryDirectory directory;
  check_in({CLONE_NEWNS}, [&](Channel&) {
    REQUIRE_IN_CHILD(::mount(type, directory.path().c_str(), type, 0, options) == 0);
    body(directory.path());
    return 0;
  });
}

/// Fails the n-th of the calls on what has a name like this; 0: all of them.
Answer failing_once(sys::Call call, std::string_view name, int error, int number) {
  return [=, seen = std::make_shared<int>(0)](const sys::CallInfo& info) {
    const bool is_meant =
        info.call == call &&
        (name.empty() || (info.path != nullptr && std::string_view(info.path).find(name) != name.npos));
    return is_meant && (++*seen == number || number == 0) ? error : 0;
  };
}

/// What is found with some call failing, in a process that remembers nothing of the file system.
void check_with(const Answer& answer, const std::function<void(const Result<FileSystemCheck>&)>& judge) {
  const TemporaryDirectory directory;
  auto child = ChildProcess::run([&](Channel&) {
    const Script script(answer);
    judge(check_file_system(directory.path()));
    return 0;
  });
  CHECK(child.wait().exited_with(0));
  CHECK(names_in(directory.path()).empty());
}

bool advises(const FileSystemCheck& check, std::string_view words) {
  for (const std::string& sentence : check.advice) {
    if (sentence.find(words) != std::string::npos) {
      return true;
    }
  }
  return false;
}

/// Whether everything works there but for this one thing; null: everything does.
bool lacks_only(const FileSystemCheck& check, bool FileSystemCheck::*missing) {
  const auto all = {&FileSystemCheck::nameless_files,   &FileSystemCheck::exclusive_link,
                    &FileSystemCheck::exclusive_rename, &FileSystemCheck::flock,
                    &FileSystemCheck::record_locks,     &FileSystemCheck::stable_inodes,
                    &FileSystemCheck::inotify};
  return std::all_of(all.begin(), all.end(), [&](auto ability) { return check.*ability == (ability != missing); });
}

}  // namespace

TEST_CASE("a local file system that can do everything is safe") {
  on_mounted("tmpfs", "size=1m", [](const fs::path& directory) {
    const auto check = check_file_system(directory);
    REQUIRE_IN_CHILD(check.has_value());
    REQUIRE_IN_CHILD(check->type == "tmpfs" && check->local && check->directory == directory);
    REQUIRE_IN_CHILD(check->nameless_files && check->exclusive_link && check->exclusive_rename);
    REQUIRE_IN_CHILD(check->flock && check->record_locks && check->independent_locks && check->stable_inodes);
    REQUIRE_IN_CHILD(check->inotify && check->time_step.has_value());
    REQUIRE_IN_CHILD(check->safety == LockSafety::safe && check->advice.empty() && !check->refusal);
    REQUIRE_IN_CHILD(names_in(directory).empty());
  });
}

TEST_CASE("a file system that is not known to be local is limited, and the advice says what that means") {
  on_mounted("ramfs", "", [](const fs::path& directory) {
    const auto check = check_file_system(directory);
    REQUIRE_IN_CHILD(check.has_value());
    REQUIRE_IN_CHILD(check->type == "ramfs" && !check->local);
    REQUIRE_IN_CHILD(check->safety == LockSafety::limited && advises(*check, "Other hosts may use"));
    REQUIRE_IN_CHILD(names_in(directory).empty());
  });
}

TEST_CASE("a file system without flock is unsafe, and the advice is to keep the locks elsewhere") {
  const TemporaryDirectory directory;
  const auto check = [&] {
    const Script script(failing(sys::Call::flock, ENOLCK));
    return check_file_system(directory.path());
  }();
  REQUIRE(check.has_value());
  CHECK(!check->flock);
  CHECK(check->safety == LockSafety::unsafe);
  REQUIRE(check->refusal.has_value());
  CHECK(check->refusal->code == Errc::unsupported_file_system);
  CHECK(advises(*check, "--lock-directory"));
  CHECK(names_in(directory.path()).empty());
}

TEST_CASE("each ability that is missing is found missing, and only that") {
  struct Missing {
    sys::Call call;
    int error;
    bool FileSystemCheck::*ability;
    LockSafety safety;
  };
  constexpr Missing k_missing[] = {
      {sys::Call::renameat2, EINVAL, &FileSystemCheck::exclusive_rename, LockSafety::safe},
      {sys::Call::ofd_setlk, EINVAL, &FileSystemCheck::record_locks, LockSafety::limited},
      {sys::Call::inotify_add_watch, ENOSPC, &FileSystemCheck::inotify, LockSafety::safe},
      {sys::Call::inotify_init, EMFILE, &FileSystemCheck::inotify, LockSafety::safe},
  };
  for (const Missing& missing : k_missing) {
    CAPTURE(sys::to_string(missing.call));
    const TemporaryDirectory directory;
    auto child = ChildProcess::run([&](Channel&) {  // what is found out is remembered for the process
      const Script script(failing(missing.call, missing.error));
      const auto check = check_file_system(directory.path());
      REQUIRE_IN_CHILD(check.has_value());
      REQUIRE_IN_CHILD(lacks_only(*check, missing.ability));
      REQUIRE_IN_CHILD(check->safety == missing.safety);
      REQUIRE_IN_CHILD(missing.safety == LockSafety::safe || !check->advice.empty());
      REQUIRE_IN_CHILD((missing.ability != &FileSystemCheck::inotify) || advises(*check, "inotify instances"));
      return 0;
    });
    CHECK(child.wait().exited_with(0));
    CHECK(names_in(directory.path()).empty());
  }
}

TEST_CASE("an ability that shows only in one of several calls is found missing, and only that") {
  struct Missing {
    sys::Call call;
    const char* name;
    int error;
    int number;
    bool FileSystemCheck::*ability;
  };
  constexpr Missing k_missing[] = {
      {sys::Call::fstatat, "file", ENOENT, 1, &FileSystemCheck::stable_inodes},
      {sys::Call::linkat, "link", EPERM, 1, &FileSystemCheck::exclusive_link},
      {sys::Call::renameat2, "renamed", EINVAL, 1, &FileSystemCheck::exclusive_rename},
      {sys::Call::flock, "", ENOLCK, 2, &FileSystemCheck::flock},
      {sys::Call::ofd_getlk, "", EINVAL, 1, &FileSystemCheck::record_locks},
      {sys::Call::linkat, "nameless", ENOENT, 1, nullptr},  // older kernels: then by way of /proc
  };
  for (const Missing& missing : k_missing) {
    CAPTURE(sys::to_string(missing.call));
    CAPTURE(missing.name);
    check_with(failing_once(missing.call, missing.name, missing.error, missing.number), [&](const auto& check) {
      REQUIRE_IN_CHILD(check.has_value());
      REQUIRE_IN_CHILD(lacks_only(*check, missing.ability));
    });
  }
}

TEST_CASE("where flock and record locks stand in each other's way there is no witness, and the advice says so") {
  constexpr int k_flock_beside_record_lock = 4;
  check_with(failing_once(sys::Call::flock, "", EWOULDBLOCK, k_flock_beside_record_lock), [](const auto& check) {
    REQUIRE_IN_CHILD(check.has_value());
    REQUIRE_IN_CHILD(check->flock && check->record_locks && !check->independent_locks);
    REQUIRE_IN_CHILD(check->safety == LockSafety::limited && advises(*check, "carry no witness"));
  });
}

TEST_CASE("an event that does not come, or cannot be had, is no shortage of the user's, and waiters poll") {
  for (const auto& [call, error] :
       {std::pair{sys::Call::poll, ENOMEM}, std::pair{sys::Call::inotify_add_watch, EACCES}}) {
    check_with(failing_once(call, "", error, 0), [](const auto& check) {
      REQUIRE_IN_CHILD(check.has_value());
      REQUIRE_IN_CHILD(!check->inotify && check->safety == LockSafety::safe);
      REQUIRE_IN_CHILD(advises(*check, "raises no event") && !advises(*check, "inotify instances"));
    });
  }
}

TEST_CASE("where times cannot be told they count as coarse") {
  check_with(failing_once(sys::Call::futimens, "", EPERM, 0), [](const auto& check) {
    REQUIRE_IN_CHILD(check.has_value());
    REQUIRE_IN_CHILD(!check->time_step && check->safety == LockSafety::safe);
    REQUIRE_IN_CHILD(advises(*check, "Times are coarse"));
  });
}

TEST_CASE("a file system on which a lock can be had, but not used or given back, is unsafe") {
  for (const Answer& fault :
       {failing_once(sys::Call::flock, "", EIO, 1), failing_once(sys::Call::unlinkat, "session.lock", EIO, 0)}) {
    bool is_held = false;
    const auto once_it_is_held = [&](const sys::CallInfo& info) {
      is_held = is_held || is_call_on(info, sys::Call::linkat, "session.lock");
      return is_held ? fault(info) : 0;
    };
    check_with(once_it_is_held, [](const auto& check) {
      REQUIRE_IN_CHILD(check.has_value());
      REQUIRE_IN_CHILD(check->safety == LockSafety::unsafe && advises(*check, "--lock-directory"));
      REQUIRE_IN_CHILD(check->refusal.has_value() && check->refusal->code == std::errc::io_error);
    });
  }
}

TEST_CASE("each safety has a word") {
  CHECK(to_string(LockSafety::safe) == "safe");
  CHECK(to_string(LockSafety::limited) == "limited");
  CHECK(to_string(LockSafety::unsafe) == "unsafe");
  CHECK(to_string(static_cast<LockSafety>(77)) == "unknown");
}

TEST_CASE("without nameless files locks are safe all the same") {
  const TemporaryDirectory directory;
  auto child = ChildProcess::run([&](Channel&) {
    const Script script([](const sys::CallInfo& info) {
      return info.call == sys::Call::openat && info.path == std::string_view(".") ? EOPNOTSUPP : 0;
    });
    const auto check = check_file_system(directory.path());
    REQUIRE_IN_CHILD(check.has_value());
    REQUIRE_IN_CHILD(!check->nameless_files && check->exclusive_link);
    REQUIRE_IN_CHILD(check->safety == LockSafety::safe);
    return 0;
  });
  CHECK(child.wait().exited_with(0));
}

TEST_CASE("where nothing can be made that is an error and no verdict") {
  CHECK(check_file_system("/nonexistent/directory").error().code == std::errc::no_such_file_or_directory);
  const TemporaryDirectory directory;
  write_text(directory / "file", "");
  CHECK(check_file_system(directory / "file").error().code == std::errc::not_a_directory);
  on_mounted("tmpfs", "ro", [](const fs::path& mounted) {
    REQUIRE_IN_CHILD(check_file_system(mounted).error().code == std::errc::read_only_file_system);
    REQUIRE_IN_CHILD(check_file_system(mounted).error().path == mounted);
  });
}

TEST_CASE("a shortage is an error under its own name, and leaves nothing behind") {
  const TemporaryDirectory directory;
  for (const auto& [call, error] : {std::pair{sys::Call::openat, EMFILE}, std::pair{sys::Call::linkat, ENOSPC},
                                    std::pair{sys::Call::flock, EIO}, std::pair{sys::Call::ofd_setlk, ENOMEM}}) {
    const auto check = [&, call = call, error = error] {
      const Script script([&](const sys::CallInfo& info) {
        return info.call == call && (call != sys::Call::openat || info.path == std::string_view("file")) ? error : 0;
      });
      return check_file_system(directory.path());
    }();
    REQUIRE(!check);
    CHECK(check.error().code == std::error_code(error, std::system_category()));
    CHECK(names_in(directory.path()).empty());
  }
}

TEST_CASE("a shortage at any step is an error under its own name, and leaves nothing behind") {
  struct Step {
    sys::Call call;
    const char* name;
    int error;
    int number;
  };
  constexpr Step k_steps[] = {
      {sys::Call::getrandom, "", EIO, 1},      {sys::Call::openat, ".sessionlock-doctor-", EMFILE, 1},
      {sys::Call::fstatfs, "", EIO, 1},        {sys::Call::fstatfs, "", EIO, 2},
      {sys::Call::openat, ".", ENOSPC, 2},  // the nameless file
      {sys::Call::openat, "other", EMFILE, 1}, {sys::Call::unlinkat, "file", EIO, 1},
  };
  for (const Step& step : k_steps) {
    CAPTURE(sys::to_string(step.call));
    CAPTURE(step.name);
    CAPTURE(step.number);
    check_with(failing_once(step.call, step.name, step.error, step.number), [&](const auto& check) {
      REQUIRE_IN_CHILD(!check);
      REQUIRE_IN_CHILD(check.error().code == std::error_code(step.error, std::system_category()));
      REQUIRE_IN_CHILD(!check.error().operation.empty() && !check.error().path.empty());
    });
  }
}
