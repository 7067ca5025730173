// What `check_file_system` finds on real file systems, and on ones that refuse a call.

#include <sessionlock/file_system_check.hpp>

#include <cerrno>
#include <filesystem>
#include <string>
#include <string_view>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>

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
  const auto run = run_in_namespaces({CLONE_NEWNS}, [&](Channel&) {
    REQUIRE_IN_CHILD(::mount(type, directory.path().c_str(), type, 0, options) == 0);
    body(directory.path());
    return 0;
  });
  if (!run.why_not.empty()) {
    skip_aloud("new namespaces are not allowed here: " + run.why_not);
    return;
  }
  CHECK(run.ended.exited_with(0));
}

bool advises(const FileSystemCheck& check, std::string_view words) {
  for (const std::string& sentence : check.advice) {
    if (sentence.find(words) != std::string::npos) {
      return true;
    }
  }
  return false;
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
      for (const auto ability :
           {&FileSystemCheck::nameless_files, &FileSystemCheck::exclusive_link, &FileSystemCheck::exclusive_rename,
            &FileSystemCheck::flock, &FileSystemCheck::record_locks, &FileSystemCheck::stable_inodes,
            &FileSystemCheck::inotify}) {
        REQUIRE_IN_CHILD((*check).*ability == (ability != missing.ability));
      }
      REQUIRE_IN_CHILD(check->safety == missing.safety);
      REQUIRE_IN_CHILD(missing.safety == LockSafety::safe || !check->advice.empty());
      REQUIRE_IN_CHILD((missing.ability != &FileSystemCheck::inotify) || advises(*check, "inotify instances"));
      return 0;
    });
    CHECK(child.wait().exited_with(0));
    CHECK(names_in(directory.path()).empty());
  }
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
