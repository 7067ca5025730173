// What the simulated faults are made after: file systems that are full, out of inodes or read-only, and a process that
// has no descriptor left. Each shortage is tried at every size, from nothing to enough.

#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sessionlock/sessionlock.hpp>

#include "faults.hpp"
#include "lock_tools.hpp"
#include "process.hpp"
#include "script.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;

namespace {

constexpr std::size_t k_page = 4096;

template <class T>
Result<void> forget_value(const Result<T>& result) {
  return result ? Result<void>{} : tl::unexpected(result.error());
}

/// One operation, from nothing to nothing.
struct Operation {
  std::string_view name;
  std::function<Result<void>(const fs::path& directory)> run;
};

Result<void> acquire_and_append(const fs::path& directory) {
  LockManager manager;
  auto lock = manager.try_acquire(directory / "s.jsonl");
  if (!lock) {
    return tl::unexpected(lock.error());
  }
  auto transcript = Transcript::open(*lock);
  const auto appended = transcript ? forget_value(transcript->append(R"({"n":1})")) : forget_value(transcript);
  const auto released = lock->release();
  return appended ? released : appended;
}

Result<void> claim(const fs::path& directory) {
  const auto claimed = PidFile::claim(directory / "d.pid");
  return forget_value(claimed);
}

Result<void> set_sentinel(const fs::path& directory) {
  const Sentinel sentinel(directory / "stop");
  for (int i = 0; i < 2; ++i) {  // the second takes the place of the first
    if (auto set = sentinel.set(1h); !set) {
      (void)sentinel.clear();
      return set;
    }
  }
  return sentinel.clear();
}

Result<void> enter_gate(const fs::path& directory) {
  const auto entry = SpawnGate(directory / "spawn.lock").try_enter();
  return forget_value(entry);
}

Result<void> take_over(const fs::path& directory) {
  LockManager manager;
  return forget_value(manager.try_acquire(directory / "dead.jsonl"));
}

Result<void> look_around(const fs::path& directory) {
  LockManager manager;
  if (auto found = manager.inspect(directory / "dead.jsonl"); !found) {
    return tl::unexpected(std::move(found).error());
  }
  auto report = sweep(directory, {.remove = false});
  if (report && !report->errors.empty()) {
    return tl::unexpected(report->errors.front());
  }
  return forget_value(report);
}

const std::vector<Operation>& operations() {
  static const std::vector<Operation> all = {{"acquire, append, release", acquire_and_append},
                                             {"acquire over a dead owner's lock", take_over},
                                             {"claim a PID file", claim},
                                             {"set a sentinel twice", set_sentinel},
                                             {"enter a gate", enter_gate},
                                             {"inspect and sweep", look_around}};
  return all;
}

/// A directory with a dead owner's lock and a live owner's.
void furnish(const fs::path& directory, pid_t owner) {
  fs::remove(directory / "dead.jsonl.lock");
  fs::remove(directory / "live.jsonl.lock");
  plant(directory / "dead.jsonl.lock", foreign_record(dead_pid(), "1"));
  plant(directory / "live.jsonl.lock", foreign_record(owner, start_of(owner)));
}

std::vector<std::string> locks_in(const fs::path& directory) {
  std::vector<std::string> names;
  for (auto& name : names_in(directory)) {
    if (name != "dead.jsonl.lock" && name != "s.jsonl" && name != "filler" && !name.starts_with("node")) {
      names.push_back(std::move(name));
    }
  }
  return names;
}

/// How often an operation was done or refused under a shortage: there must be some of both.
struct Figures {
  std::size_t done{0};
  std::size_t refused{0};
  void check(std::string_view shortage) const {
    CHECK(done > 0);
    CHECK(refused > 0);
    std::cout << "faults: " << shortage << ": " << done << " operations done, " << refused << " refused\n";
  }
};

/// One operation under a shortage, and again without. `errors` are what the shortage is called.
void try_operation(const Operation& operation, const fs::path& directory, const std::vector<int>& errors,
                   const std::function<void()>& impose, const std::function<void()>& lift, Figures& figures) {
  CAPTURE(operation.name);
  fs::remove(directory / "s.jsonl");
  const std::size_t descriptors = count_descriptors();
  impose();
  const auto result = operation.run(directory);
  lift();
  ++(result ? figures.done : figures.refused);
  if (!result) {
    const Error& error = result.error();
    CAPTURE(error.message());
    bool is_named = false;
    for (const int known : errors) {
      is_named = is_named || error.code == std::error_code(known, std::system_category());
    }
    CHECK(is_named);
    CHECK_FALSE(error.operation.empty());
    CHECK_FALSE(error.path.empty());
  }
  CHECK(count_descriptors() == descriptors);
  CHECK(locks_in(directory) == std::vector<std::string>{"live.jsonl.lock"});
  CHECK(operation.run(directory).has_value());
  CHECK(locks_in(directory) == std::vector<std::string>{"live.jsonl.lock"});
}

/// Takes everything of a file system but so many pages.
void fill(const fs::path& directory, std::size_t pages_left) {
  std::size_t pages = 0;
  const int fd = ::open((directory / "filler").c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, S_IRUSR | S_IWUSR);
  const std::string page(k_page, 'x');
  while (::write(fd, page.data(), page.size()) == static_cast<ssize_t>(page.size())) {
    ++pages;
  }
  REQUIRE(pages > pages_left);
  REQUIRE(::ftruncate(fd, static_cast<off_t>((pages - pages_left) * k_page)) == 0);
  ::close(fd);
}

/// Takes all inodes but so many.
void take_inodes(const fs::path& directory, int left) {
  int number = 0;
  while (true) {
    const int fd =
        ::open((directory / ("node" + std::to_string(number))).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, S_IRUSR);
    if (fd < 0) {
      break;
    }
    ::close(fd);
    ++number;
  }
  for (int i = 0; i < left; ++i) {
    fs::remove(directory / ("node" + std::to_string(i)));
  }
}

void give_inodes_back(const fs::path& directory) {
  for (const auto& name : names_in(directory)) {
    if (name.starts_with("node")) {
      fs::remove(directory / name);
    }
  }
}

}  // namespace

TEST_CASE("on a full file system every operation is done or says so, and leaves nothing") {
  std::string why_not;
  const auto mount = TmpfsMount::mount("size=40k,nr_inodes=64", &why_not);
  if (!mount) {
    skip_aloud(why_not);
    return;
  }
  const auto owner = idle_process();
  Figures figures;
  for (std::size_t left = 0; left <= 4; ++left) {
    CAPTURE(left);
    for (const auto& operation : operations()) {
      furnish(mount->path(), owner.pid());
      try_operation(
          operation, mount->path(), {ENOSPC}, [&] { fill(mount->path(), left); },
          [&] { fs::remove(*mount / "filler"); }, figures);
    }
  }
  figures.check("full file system");
}

TEST_CASE("on a file system without inodes every operation is done or says so, and leaves nothing") {
  std::string why_not;
  const auto mount = TmpfsMount::mount("size=256k,nr_inodes=16", &why_not);
  if (!mount) {
    skip_aloud(why_not);
    return;
  }
  const auto owner = idle_process();
  Figures figures;
  for (int left = 0; left <= 3; ++left) {
    CAPTURE(left);
    for (const auto& operation : operations()) {
      furnish(mount->path(), owner.pid());
      try_operation(
          operation, mount->path(), {ENOSPC}, [&] { take_inodes(mount->path(), left); },
          [&] { give_inodes_back(mount->path()); }, figures);
    }
  }
  figures.check("without inodes");
}

TEST_CASE("through a read-only mount nothing changes, and what only looks goes on") {
  std::string why_not;
  const auto mount = TmpfsMount::mount("size=256k", &why_not);
  if (!mount) {
    skip_aloud(why_not);
    return;
  }
  const auto owner = idle_process();
  const fs::path real = *mount / "real";
  const fs::path view = *mount / "view";
  fs::create_directory(real);
  fs::create_directory(view);
  furnish(real, owner.pid());
  REQUIRE(::mount(real.c_str(), view.c_str(), nullptr, MS_BIND, nullptr) == 0);
  REQUIRE(::mount(nullptr, view.c_str(), nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr) == 0);
  for (const auto& operation : operations()) {
    CAPTURE(operation.name);
    const std::size_t descriptors = count_descriptors();
    const auto result = operation.run(view);
    CHECK(result.has_value() == (operation.name == "inspect and sweep"));
    if (!result) {
      CHECK(result.error().code == std::errc::read_only_file_system);
    }
    CHECK(count_descriptors() == descriptors);
    CHECK(names_in(real) == std::vector<std::string>{"dead.jsonl.lock", "live.jsonl.lock"});
  }
  const auto report = sweep(view);
  REQUIRE(report.has_value());
  CHECK(report->removed.empty());
  REQUIRE(report->errors.size() == 1);
  CHECK(report->errors.front().code == std::errc::read_only_file_system);
  REQUIRE(::umount2(view.c_str(), MNT_DETACH) == 0);
  // The same place by the other mount.
  for (const auto& operation : operations()) {
    CHECK(operation.run(real).has_value());
  }
}

TEST_CASE("without descriptors every operation is done or says so, and leaks none") {
  const Workplace directory;
  const auto owner = idle_process();
  for (const auto& operation : operations()) {
    furnish(directory.path(), owner.pid());
    REQUIRE(operation.run(directory.path()).has_value());  // what is kept open for good is open now
  }
  struct rlimit before {};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  Figures figures;
  for (rlim_t left = 0; left <= 8; ++left) {
    CAPTURE(left);
    for (const auto& operation : operations()) {
      furnish(directory.path(), owner.pid());
      // The limit is on the number, so what is free below it counts too.
      const int lowest = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
      ::close(lowest);
      struct rlimit few = before;
      few.rlim_cur = static_cast<rlim_t>(lowest) + left;
      try_operation(
          operation, directory.path(), {EMFILE}, [&] { REQUIRE(::setrlimit(RLIMIT_NOFILE, &few) == 0); },
          [&] { ::setrlimit(RLIMIT_NOFILE, &before); }, figures);
    }
  }
  figures.check("without descriptors");
}

TEST_CASE("under a limit on the size of files no publication ends the program: it says so, and leaves nothing") {
  const Workplace directory;
  const auto owner = idle_process();
  for (const Operation& operation : operations()) {
    if (operation.name == "acquire, append, release") {
      continue;  // a transcript's own bytes are the program's, and so is the signal that comes for them
    }
    for (const rlim_t bytes_max : {0U, 1U, 100U}) {
      CAPTURE(operation.name);
      CAPTURE(bytes_max);
      furnish(directory.path(), owner.pid());
      auto child = ChildProcess::run([&](Channel&) {
        const struct rlimit none {};
        const struct rlimit limit { bytes_max, bytes_max };
        REQUIRE_IN_CHILD(::signal(SIGXFSZ, SIG_DFL) != SIG_ERR && ::setrlimit(RLIMIT_CORE, &none) == 0 &&
                         ::setrlimit(RLIMIT_FSIZE, &limit) == 0);
        const auto done = operation.run(directory.path());
        return done || done.error().code == std::errc::file_too_large ? 0 : 1;
      });
      CHECK(child.wait().exited_with(0));
      CHECK(locks_in(directory.path()) == std::vector<std::string>{"live.jsonl.lock"});
    }
  }
}

namespace {

/// A dead owner's session that a link leads to, which is turned as soon as its lock has been taken over.
struct TurnedLink {
  explicit TurnedLink(const fs::path& in) : directory(in), link(in / "link"), session(in / "dead.jsonl") {
    fs::create_symlink(session.filename(), link);
    plant(in / "dead.jsonl.lock", foreign_record(dead));
  }
  ~TurnedLink() {
    fs::remove(link);
    fs::remove(directory / "other.jsonl.lock");
  }
  TurnedLink(const TurnedLink&) = delete;
  TurnedLink& operator=(const TurnedLink&) = delete;

  fs::path directory;
  fs::path link;
  fs::path session;
  pid_t dead = dead_pid();
};

bool takes_over(const sys::CallInfo& info) {
  return is_call_on(info, sys::Call::renameat2, "dead.jsonl.lock");
}

}  // namespace

TEST_CASE("a take-over is undone on a disk that has become full") {
  std::string why_not;
  const auto mount = TmpfsMount::mount("size=40k,nr_inodes=64", &why_not);
  if (!mount) {
    skip_aloud(why_not);
    return;
  }
  const TurnedLink turned(mount->path());
  bool is_taken_over = false;
  {
    const Script script(outermost([&](const sys::CallInfo& info) {
      if (is_taken_over) {
        is_taken_over = false;
        fs::remove(turned.link);
        fs::create_symlink("other.jsonl", turned.link);
        fill(mount->path(), 0);
      }
      is_taken_over = takes_over(info);
      return 0;
    }));
    // There is as much room for the other lock as the first one leaves.
    CHECK(!held(LockManager().try_acquire(turned.link)).reclaimed_from());
  }
  fs::remove(*mount / "filler");
  const auto next = held(LockManager().try_acquire(turned.session));
  REQUIRE(next.reclaimed_from().has_value());
  CHECK(next.reclaimed_from()->record.pid == turned.dead);
}

TEST_CASE("however few descriptors there are, a death is reported to one turn") {
  struct rlimit before {};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  std::size_t undone = 0;
  for (const bool has_lock_directory : {false, true}) {
    CAPTURE(has_lock_directory);
    for (rlim_t left = 0; left <= 12; ++left) {
      CAPTURE(left);
      const Workplace directory;
      fs::create_directory(directory.path() / "a");
      fs::create_directory(directory.path() / "b");
      fs::create_symlink("../b/s.jsonl", directory.path() / "a/link");
      ManagerOptions options;
      options.lock_directory = has_lock_directory ? directory.path() / "locks" : "";
      const fs::path link = directory.path() / "a/link";
      auto owner = ChildProcess::run([&](Channel&) {
        const auto lock = LockManager(options).try_acquire(link);
        ::_exit(lock ? 0 : 1);
        return 1;
      });
      LockManager manager(options);
      (void)held(manager.try_acquire(directory.path() / "b/warm"));
      REQUIRE(owner.wait().exited_with(0));
      const int lowest = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
      ::close(lowest);
      struct rlimit few = before;
      few.rlim_cur = static_cast<rlim_t>(lowest) + left;
      REQUIRE(::setrlimit(RLIMIT_NOFILE, &few) == 0);
      bool was_taken_over = false;
      auto lock = [&] {
        const Script script([&](const sys::CallInfo& info) {
          was_taken_over = was_taken_over || info.call == sys::Call::renameat2;
          return 0;
        });
        return manager.try_acquire(link);
      }();
      REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
      int reports = lock && lock->reclaimed_from() ? 1 : 0;
      CHECK(lock.has_value() == (reports == 1));
      undone += was_taken_over && !lock ? std::size_t{1} : std::size_t{0};
      lock = tl::unexpected(Error{});
      const auto next = held(manager.try_acquire(link));
      reports += next.reclaimed_from() ? 1 : 0;
      CHECK(reports == 1);
    }
  }
  CHECK(undone > 0);
}
