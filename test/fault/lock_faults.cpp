// Every system call of every operation on locks fails in every way it can.

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sessionlock/sessionlock.hpp>

#include "faults.hpp"
#include "lock_tools.hpp"
#include "process.hpp"
#include "protocol/lock_file.hpp"
#include "protocol/publication.hpp"
#include "protocol/temporary_name.hpp"
#include "script.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;

namespace {

Result<void> without_value(Result<SessionLock>&& result, SessionLock& lock) {
  if (!result) {
    return tl::unexpected(std::move(result).error());
  }
  lock = std::move(*result);
  return {};
}

/// A session and what is done with its lock.
struct Bench {
  explicit Bench(const fs::path& directory, ManagerOptions options = {})
      : path(directory / "s.jsonl"), lock_path(directory / "s.jsonl.lock"), manager(std::move(options)) {}

  Result<void> acquire() { return without_value(manager.try_acquire(path), lock); }

  /// What is wrong with a lock that is to be held.
  std::string judge_hold() {
    if (!lock.owns() || !fs::exists(lock_path)) {
      return "it is not held";
    }
    if ((fs::status(lock_path).permissions() & (fs::perms::group_write | fs::perms::others_write)) != fs::perms::none) {
      return "others may write it";
    }
    if (const auto verified = lock.verify(); !verified) {
      return "it is held, and is not: " + verified.error().message();
    }
    int writes = 0;
    if (const auto guarded = lock.guarded([&] { ++writes; }); !guarded || writes != 1) {
      return "no guarded write: " + (guarded ? "" : guarded.error().message());
    }
    if (const auto released = lock.release(); !released) {
      return "it cannot be released: " + released.error().message();
    }
    return fs::exists(lock_path) ? "the lock file outlives the release" : "";
  }

  /// The whole once more.
  std::string judge_again() {
    retry_releases();
    if (auto again = acquire(); !again) {
      return "it cannot be acquired afterwards: " + again.error().message();
    }
    return judge_hold();
  }

  fs::path path;
  fs::path lock_path;
  LockManager manager;
  SessionLock lock{};
};

std::shared_ptr<Bench> held_bench(const fs::path& directory) {
  auto bench = std::make_shared<Bench>(directory);
  value_or_throw(bench->acquire());
  return bench;
}

/// How a lock gets its name, and whether what the file system can do is known already.
enum class Setting { known, first, linked, apart, renamed };

std::string_view to_string(Setting setting) {
  switch (setting) {
    case Setting::known:
      return "";
    case Setting::first:
      return ", where nothing was tried before";
    case Setting::linked:
      return ", by a temporary name";
    case Setting::apart:
      return ", where each name is a file of its own";
    case Setting::renamed:
      return ", by a rename";
  }
  return "?";
}

void set_naming(const KnownTraits& traits, Setting setting) {
  if (setting == Setting::known) {
    traits.settle();
    return;
  }
  if (setting == Setting::apart) {
    traits.settle();
    traits.get().locks_are_per_name.store(true);
  } else {
    traits.forget();
  }
  if (setting != Setting::first) {
    traits.get().naming.store(setting == Setting::renamed ? Naming::temporary_rename : Naming::temporary_link);
  }
}

/// Where each name is a file of its own, a lock that was published and cannot be looked at stays, which the error says.
std::vector<std::string> may_stay_in(Setting setting, const char* lock) {
  return setting == Setting::apart ? std::vector<std::string>{lock} : std::vector<std::string>{};
}

using Plant = std::function<void(const fs::path& lock)>;

/// Acquires a session at whose lock path there is nothing, or something that is nobody's.
void acquire_with_faults(const std::string& what, Setting setting, const Plant& plant_lock = nullptr,
                         const std::function<void(const fs::path& session)>& make_session = nullptr) {
  const Workplace somewhere;
  const KnownTraits traits(somewhere.path());
  const std::string operation = what + std::string(to_string(setting));
  const auto situation = [&](const fs::path& directory) {
    set_naming(traits, setting);
    auto bench = std::make_shared<Bench>(directory);
    if (make_session) {
      make_session(bench->path);
    }
    if (plant_lock) {
      plant_lock(bench->lock_path);
    }
    const auto planted = plant_lock ? std::optional(read_text(bench->lock_path)) : std::nullopt;
    const auto judge = [bench, planted](const Result<void>& result) {
      std::string wrong = result ? bench->judge_hold() : "";
      retry_releases();
      // It may have been replaced meanwhile: a take-over that reaches no caller is undone.
      if (wrong.empty() && fs::exists(bench->lock_path) && planted != read_text(bench->lock_path)) {
        // Where that cannot be helped it is at least said.
        const bool is_told = !result && result.error().detail.find("stays until this process") != std::string::npos;
        return std::string(is_told ? "" : "a failed acquire left a lock");
      }
      return wrong.empty() ? bench->judge_again() : wrong;
    };
    return Trial{[bench] { return bench->acquire(); }, judge};
  };
  // What cannot be read is held for all we know.
  const auto own = plant_lock ? std::vector{Errc::unsupported_file_system, Errc::locked}
                              : std::vector{Errc::unsupported_file_system};
  inject_faults({.operation = operation,
                 .situation = situation,
                 .own_errors = own,
                 .may_stay = may_stay_in(setting, "s.jsonl.lock")});
}

/// Something at a lock path that must stay, and one operation that must leave it alone.
struct Kept {
  explicit Kept(const Plant& plant_lock) {
    plant_lock(bench.lock_path);
    inode = inode_of(bench.lock_path);
    text = read_text(bench.lock_path);
  }
  [[nodiscard]] std::string judge() const {
    const bool same = inode_of(bench.lock_path) == inode && read_text(bench.lock_path) == text;
    return same ? "" : "somebody's lock was touched";
  }

  Workplace directory{};
  Bench bench{directory.path()};
  std::uint64_t inode{0};
  std::string text{};
};

/// Runs operations on a lock that must be left alone, with all faults.
void leave_alone_with_faults(const std::string& what, const Kept& kept) {
  const auto try_it = [&kept](const fs::path&) {
    auto bench = std::make_shared<Bench>(kept.directory.path());
    return Trial{[bench] { return bench->acquire(); },
                 [bench, &kept](const Result<void>& result) -> std::string {
                   if (result) {
                     return "it was acquired";
                   }
                   if (result.error().code == Errc::locked && !result.error().holder) {
                     return "the answer does not say who holds it";
                   }
                   const auto again = bench->acquire();
                   return again || again.error().code != Errc::locked ? "afterwards it is not locked" : kept.judge();
                 }};
  };
  inject_faults({.operation = "try_acquire " + what, .situation = try_it, .own_errors = {Errc::locked}});

  const auto inspect = [&kept](const fs::path&) {
    auto found = std::make_shared<Inspection>();
    return Trial{[&kept, found]() -> Result<void> {
                   auto result = kept.bench.manager.inspect(kept.bench.path);
                   if (!result) {
                     return tl::unexpected(std::move(result).error());
                   }
                   *found = std::move(*result);
                   return {};
                 },
                 [&kept, found](const Result<void>& result) -> std::string {
                   if (result && (found->removable || found->removed || found->state == LockState::free)) {
                     return "it is said to be free or removable: " + found->explanation();
                   }
                   const auto again = kept.bench.manager.inspect(kept.bench.path);
                   return again && again->state != LockState::free && !again->removable ? kept.judge()
                                                                                        : "afterwards it is not held";
                 }};
  };
  inject_faults({.operation = "inspect " + what, .situation = inspect});

  const auto force = [&kept](const fs::path&) {
    const std::string name =
        kept.bench.manager.inspect(kept.bench.path)
            ->record.lock_id.value_or(std::to_string(parse_lock_record(kept.text).pid.value_or(1)));
    return Trial{[&kept, name]() -> Result<void> {
                   const auto released = LockManager().force_release(kept.bench.path, name);
                   return released ? Result<void>{} : tl::unexpected(released.error());
                 },
                 [&kept](const Result<void>& result) { return result ? "it was released" : kept.judge(); }};
  };
  inject_faults({.operation = "force_release without force " + what,
                 .situation = force,
                 .own_errors = {Errc::locked, Errc::invalid_argument}});
}

std::string dead_owners_record() {
  return foreign_record(dead_pid(), "1");  // a start of no process, should somebody get the pid
}

std::string recycled_record() {
  return foreign_record(::getppid(), "1");
}

/// As a process of this library leaves it that is killed.
std::string orphaned_record() {
  LockRecord record = own_record();
  record.starttime = *record.starttime - 1;
  return format_lock_record(record);
}

}  // namespace

TEST_CASE("whatever fails, a free session is acquired or not, and nothing is left") {
  for (const auto setting : {Setting::known, Setting::first, Setting::linked, Setting::apart, Setting::renamed}) {
    acquire_with_faults("acquire free", setting);
  }
}

TEST_CASE("whatever fails, a session that others may write is acquired or not, and they never write its lock") {
  // Another group than that of the file system, so that the lock has to be given it.
  constexpr gid_t k_group = 23453;
  for (const auto setting : {Setting::known, Setting::linked, Setting::apart}) {
    acquire_with_faults("acquire a shared session", setting, nullptr, [](const fs::path& session) {
      write_text(session, "");
      (void)::chown(session.c_str(), static_cast<uid_t>(-1), k_group);
      REQUIRE(::chmod(session.c_str(), 0660) == 0);
    });
  }
}

TEST_CASE("whatever fails, a stale lock is taken over or stays as it was") {
  const auto planted = [](std::string text) {
    return [text = std::move(text)](const fs::path& lock) { plant(lock, text); };
  };
  acquire_with_faults("acquire over a dead owner's lock", Setting::known, planted(dead_owners_record()));
  acquire_with_faults("acquire over a dead owner's lock", Setting::linked, planted(dead_owners_record()));
  acquire_with_faults("acquire over a dead owner's lock", Setting::apart, planted(dead_owners_record()));
  acquire_with_faults("acquire over a recycled pid's lock", Setting::known, planted(recycled_record()));
  acquire_with_faults("acquire over our own orphan", Setting::known, planted(orphaned_record()));
  acquire_with_faults("acquire over an abandoned empty file", Setting::known, [](const fs::path& lock) {
    plant(lock, "");
    make_older(lock, 1h);
  });
}

TEST_CASE("whatever fails, a death is reported to one turn, also where a take-over has to be undone") {
  const std::string record = dead_owners_record();
  for (const auto setting : {Setting::known, Setting::linked, Setting::apart}) {
    const Workplace somewhere;
    const KnownTraits traits(somewhere.path());
    const auto situation = [&](const fs::path& directory) {
      set_naming(traits, setting);
      traits.get().local = setting == Setting::known;  // where links are refused, a copy is kept
      auto bench = std::make_shared<Bench>(directory);
      const fs::path link = directory / "link";
      plant(bench->lock_path, record);
      fs::create_symlink("s.jsonl", link);
      const auto act = [bench, link] { return without_value(bench->manager.try_acquire(link), bench->lock); };
      // The link is turned before the first look at it after the take-over, so that the acquire has to undo that.
      const auto turn = [link, is_taken_over = false](const sys::CallInfo& info) mutable {
        if (std::exchange(is_taken_over, false)) {
          fs::remove(link);
          fs::create_symlink("other.jsonl", link);
        }
        const bool replaces = info.call == sys::Call::renameat2 || info.call == sys::Call::renameat;
        is_taken_over = replaces && is_call_on(info, info.call, "s.jsonl.lock") && fs::read_symlink(link) == "s.jsonl";
      };
      const auto judge = [bench](const Result<void>&) -> std::string {
        int reports = bench->lock.reclaimed_from() ? 1 : 0;
        bench->lock = SessionLock();
        retry_releases();
        if (auto next = bench->acquire(); !next) {
          return "the session cannot be acquired afterwards: " + next.error().message();
        }
        reports += bench->lock.reclaimed_from() ? 1 : 0;
        bench->lock = SessionLock();
        return reports == 1 ? "" : "the death was reported " + std::to_string(reports) + " times";
      };
      return Trial{act, judge, turn};
    };
    inject_faults({.operation = "take over and undo" + std::string(to_string(setting)),
                   .situation = situation,
                   .own_errors = {Errc::locked, Errc::unsupported_file_system},
                   .may_stay = may_stay_in(setting, "other.jsonl.lock")});
  }
}

TEST_CASE("whatever fails, a lock that is somebody's is left alone") {
  SUBCASE("of a process of this library") {
    const Workplace directory;
    std::optional<ChildProcess> holder;
    const Kept kept([&](const fs::path& lock) { holder = holder_of(fs::path(lock).replace_extension("")); });
    leave_alone_with_faults("where another process holds it", kept);
  }
  SUBCASE("of another program") {
    auto owner = idle_process();
    const Kept kept([&](const fs::path& lock) { plant(lock, foreign_record(owner.pid(), start_of(owner.pid()))); });
    leave_alone_with_faults("where another program holds it", kept);
  }
  SUBCASE("of another program without a start time") {
    auto owner = idle_process();
    const Kept kept([&](const fs::path& lock) { plant(lock, foreign_record(owner.pid())); });
    leave_alone_with_faults("where a program without a start time holds it", kept);
  }
  SUBCASE("just being created") {
    // Written anew each time, because this takes a while.
    const Kept kept([](const fs::path& lock) { plant(lock, ""); });
    const auto renew = [&kept](const fs::path&) {
      make_older(kept.bench.lock_path, 0s);
      auto bench = std::make_shared<Bench>(kept.directory.path());
      return Trial{[bench] { return bench->acquire(); },
                   [&kept](const Result<void>& result) { return result ? "it was acquired" : kept.judge(); }};
    };
    inject_faults(
        {.operation = "try_acquire where a lock is being created", .situation = renew, .own_errors = {Errc::locked}});
  }
  SUBCASE("of a machine that cannot be asked") {
    LockRecord record = own_record();
    record.boot_id = "00000000-0000-4000-8000-000000000000";
    const Kept kept([&](const fs::path& lock) { plant(lock, format_lock_record(record)); });
    leave_alone_with_faults("where nobody can tell who holds it", kept);
  }
}

TEST_CASE("whatever fails, a release removes the lock or can be repeated") {
  const auto situation = [](const fs::path& directory) {
    auto bench = held_bench(directory);
    return Trial{[bench] { return bench->lock.release(); },
                 [bench](const Result<void>& result) -> std::string {
                   if (result.has_value() == fs::exists(bench->lock_path)) {
                     return "the answer and the lock file do not agree";
                   }
                   if (!result && !bench->lock.owns()) {
                     return "the handle gave up a lock that is still there";
                   }
                   if (const auto again = bench->lock.release(); !again) {
                     return "it cannot be repeated: " + again.error().message();
                   }
                   return fs::exists(bench->lock_path) ? "repeated, it leaves the file" : bench->judge_again();
                 }};
  };
  inject_faults({.operation = "release", .situation = situation, .own_errors = {Errc::timed_out}});
}

TEST_CASE("whatever fails in a destructor, the next call of the library releases") {
  const auto situation = [](const fs::path& directory) {
    auto bench = held_bench(directory);
    return Trial{[bench]() -> Result<void> {
                   bench->lock = SessionLock();
                   return {};
                 },
                 [bench](const Result<void>&) -> std::string {
                   retry_releases();
                   return fs::exists(bench->lock_path) ? "the lock stays" : bench->judge_again();
                 }};
  };
  inject_faults({.operation = "release by a destructor", .situation = situation});
}

TEST_CASE("whatever fails, a guarded write happens once and under the lock, or not at all") {
  const auto situation = [](const fs::path& directory) {
    auto bench = held_bench(directory);
    auto writes = std::make_shared<int>(0);
    return Trial{
        [bench, writes] { return bench->lock.guarded([&]() -> Result<void> { return ++*writes, Result<void>{}; }); },
        [bench, writes](const Result<void>& result) -> std::string {
          return *writes != (result ? 1 : 0) ? "the answer and the write do not agree" : bench->judge_hold();
        }};
  };
  inject_faults({.operation = "guarded", .situation = situation, .own_errors = {Errc::timed_out}});
}

TEST_CASE("whatever fails, a verification does not end a hold") {
  const auto situation = [](const fs::path& directory) {
    auto bench = held_bench(directory);
    return Trial{[bench] { return bench->lock.verify(); },
                 [bench](const Result<void>&) { return bench->judge_hold(); }};
  };
  inject_faults({.operation = "verify", .situation = situation});
}

TEST_CASE("whatever fails, a release inside a guarded write takes effect at the latest at the next call") {
  const auto situation = [](const fs::path& directory) {
    auto bench = held_bench(directory);
    return Trial{[bench] { return bench->lock.guarded([&] { return bench->lock.release(); }); },
                 [bench](const Result<void>& result) -> std::string {
                   if (!result) {
                     return bench->judge_hold();
                   }
                   retry_releases();
                   return fs::exists(bench->lock_path) ? "the lock stays" : bench->judge_again();
                 }};
  };
  inject_faults(
      {.operation = "release inside a guarded write", .situation = situation, .own_errors = {Errc::timed_out}});
}

TEST_CASE("whatever fails, looking at a free or stale lock changes nothing") {
  const auto looking = [](const std::string& text) {
    return [text](const fs::path& directory) {
      auto bench = std::make_shared<Bench>(directory);
      if (!text.empty()) {
        plant(bench->lock_path, text);
      }
      const auto planted = inode_of(bench->lock_path);
      return Trial{[bench]() -> Result<void> {
                     const auto found = bench->manager.inspect(bench->path);
                     return found ? Result<void>{} : tl::unexpected(found.error());
                   },
                   [bench, planted](const Result<void>&) -> std::string {
                     return inode_of(bench->lock_path) != planted ? "something changed" : bench->judge_again();
                   }};
    };
  };
  inject_faults({.operation = "inspect free", .situation = looking("")});
  inject_faults({.operation = "inspect a dead owner's lock", .situation = looking(dead_owners_record())});
}

TEST_CASE("whatever fails, a dead owner's lock is released by name or stays") {
  const std::string text = dead_owners_record();
  const std::string pid = std::to_string(*parse_lock_record(text).pid);
  const auto situation = [&](const fs::path& directory) {
    auto bench = std::make_shared<Bench>(directory);
    plant(bench->lock_path, text);
    return Trial{[bench, pid]() -> Result<void> {
                   const auto released = bench->manager.force_release(bench->path, pid);
                   return released ? Result<void>{} : tl::unexpected(released.error());
                 },
                 [bench](const Result<void>& result) -> std::string {
                   return result.has_value() == fs::exists(bench->lock_path)
                              ? "the answer and the lock file do not agree"
                              : bench->judge_again();
                 }};
  };
  // A lock that cannot be read may be anybody's.
  inject_faults({.operation = "force_release a dead owner's lock",
                 .situation = situation,
                 .own_errors = {Errc::locked, Errc::invalid_argument}});
}

TEST_CASE("whatever fails, a lock in a directory of locks is acquired or not") {
  const auto situation = [](const fs::path& directory) {
    auto bench = std::make_shared<Bench>(directory, ManagerOptions{.lock_directory = directory / "locks"});
    return Trial{[bench] { return bench->acquire(); },
                 [bench, directory](const Result<void>& result) -> std::string {
                   if (result && (!bench->lock.verify() || !bench->lock.release())) {
                     return "it is not held";
                   }
                   retry_releases();
                   if (fs::exists(directory / "locks") && !names_in(directory / "locks").empty()) {
                     return "the lock stays";
                   }
                   return bench->acquire() && bench->lock.release() ? "" : "it cannot be acquired afterwards";
                 }};
  };
  inject_faults({.operation = "acquire in a directory of locks",
                 .situation = situation,
                 .own_errors = {Errc::unsupported_file_system}});
}

TEST_CASE("whatever fails, a session behind links and missing directories has one lock or none") {
  const auto behind_link = [](const fs::path& directory) {
    fs::create_directory(directory / "far");
    fs::create_symlink(directory / "far" / "s.jsonl", directory / "link.jsonl");
    auto bench = std::make_shared<Bench>(directory / "far");
    bench->path = directory / "link.jsonl";
    return Trial{[bench] { return bench->acquire(); },
                 [bench](const Result<void>& result) {
                   const std::string wrong = result ? bench->judge_hold() : "";
                   return wrong.empty() ? bench->judge_again() : wrong;
                 }};
  };
  inject_faults({.operation = "acquire through a link", .situation = behind_link});
  const auto nested = [](const fs::path& directory) {
    auto bench = std::make_shared<Bench>(directory / "a" / "b");
    return Trial{[bench] { return bench->acquire(); },
                 [bench](const Result<void>& result) {
                   const std::string wrong = result ? bench->judge_hold() : "";
                   return wrong.empty() ? bench->judge_again() : wrong;
                 }};
  };
  inject_faults({.operation = "acquire in missing directories", .situation = nested});
}

TEST_CASE("whatever fails, a joined lock is the ancestor's or nobody's") {
  const Workplace directory;
  Bench owner(directory.path());
  value_or_throw(owner.acquire());
  const std::string id = *owner.lock.record().lock_id;
  const auto situation = [&](const fs::path&) {
    auto joined = std::make_shared<SessionLock>();
    return Trial{[&, joined]() -> Result<void> {
                   if (auto done = without_value(LockManager().join(owner.path, id), *joined); !done) {
                     return done;
                   }
                   return joined->guarded([]() -> Result<void> { return {}; });
                 },
                 [&, joined](const Result<void>&) -> std::string {
                   *joined = SessionLock();
                   const auto again = LockManager().join(owner.path, id);
                   return owner.lock.verify() && again && again->verify() ? "" : "afterwards it cannot be joined";
                 }};
  };
  inject_faults({.operation = "join and write", .situation = situation, .own_errors = {Errc::timed_out}});
  CHECK(owner.lock.release().has_value());
}

TEST_CASE("whatever fails, a sweep removes only what is nobody's, and says what it could not do") {
  const auto owner = idle_process();
  const std::string live = foreign_record(owner.pid(), start_of(owner.pid()));
  const std::string dead = dead_owners_record();
  const std::string temporary = temporary_name("t.jsonl.lock", std::string(32, 'a'));
  const auto situation = [&](const fs::path& directory) {
    plant(directory / "live.jsonl.lock", live);
    plant(directory / "dead.jsonl.lock", dead);
    plant(directory / "empty.jsonl.lock", "");
    plant(directory / temporary, "{}");
    make_older(directory / temporary, 1h);
    fs::create_directory(directory / "below");
    plant(directory / "below" / "live.jsonl.lock", live);
    plant(directory / "below" / "dead.jsonl.lock", dead);
    auto report = std::make_shared<SweepReport>();
    const auto run = [directory, report]() -> Result<void> {
      auto result = sweep(directory, {.recursive = true});
      if (!result) {
        return tl::unexpected(std::move(result).error());
      }
      *report = std::move(*result);
      return {};
    };
    const auto judge = [=](const Result<void>&) -> std::string {
      const auto lives = [&](const char* name) { return fs::exists(directory / name); };
      if (!lives("live.jsonl.lock") || !lives("empty.jsonl.lock") || !lives("below/live.jsonl.lock")) {
        return "somebody's lock was removed";
      }
      for (const auto& removed : report->removed) {
        if (fs::exists(removed.lock_path)) {
          return "it says it removed " + removed.lock_path.native();
        }
      }
      for (const auto& error : report->errors) {
        if (!error.code || error.operation.empty() || error.path.empty()) {
          return "an error is not clear: " + error.message();
        }
      }
      if (!run()) {
        return "it cannot be repeated";
      }
      return lives("dead.jsonl.lock") || lives("below/dead.jsonl.lock") || lives(temporary.c_str()) ||
                     !lives("live.jsonl.lock") || !lives("empty.jsonl.lock")
                 ? "repeated, it does not do its work"
                 : "";
    };
    return Trial{run, judge};
  };
  inject_faults({.operation = "sweep", .situation = situation, .may_stay = {"live.jsonl.lock", "empty.jsonl.lock"}});
}

TEST_CASE("whatever fails, a waiter gets the lock that is released, or says what failed") {
  const auto owner = idle_process();
  const std::string live = foreign_record(owner.pid(), start_of(owner.pid()));
  // Gone as soon as the waiter would sleep.
  const auto released_at_last = [](const std::shared_ptr<Bench>& bench) {
    return [bench, done = std::make_shared<bool>(false)](const sys::CallInfo& info) {
      if (info.call == sys::Call::poll && !std::exchange(*done, true)) {
        fs::remove(bench->lock_path);
      }
    };
  };
  const auto acquire = [&](const fs::path& directory) {
    auto bench = std::make_shared<Bench>(directory);
    plant(bench->lock_path, live);
    return Trial{[bench] { return without_value(bench->manager.acquire(bench->path), bench->lock); },
                 [bench](const Result<void>& result) {
                   const std::string wrong = result ? bench->judge_hold() : "";
                   fs::remove(bench->lock_path);
                   return wrong.empty() ? bench->judge_again() : wrong;
                 },
                 released_at_last(bench)};
  };
  inject_faults({.operation = "acquire after a wait", .situation = acquire});
  const auto wait = [&](const fs::path& directory) {
    auto bench = std::make_shared<Bench>(directory);
    plant(bench->lock_path, live);
    return Trial{[bench] { return bench->manager.wait_until_free(bench->path); },
                 [bench](const Result<void>& result) -> std::string {
                   if (result && fs::exists(bench->lock_path)) {
                     return "it is said to be free while it is held";
                   }
                   fs::remove(bench->lock_path);
                   return bench->manager.wait_until_free(bench->path) ? bench->judge_again()
                                                                      : "it is not free afterwards";
                 },
                 released_at_last(bench)};
  };
  inject_faults({.operation = "wait_until_free", .situation = wait});
}

TEST_CASE("whatever fails, who waits in vain leaves the lock alone") {
  const auto owner = idle_process();
  const Kept kept([&](const fs::path& lock) { plant(lock, foreign_record(owner.pid(), start_of(owner.pid()))); });
  const auto situation = [&](const fs::path&) {
    auto bench = std::make_shared<Bench>(kept.directory.path());
    return Trial{[bench]() -> Result<void> {
                   AcquireOptions options;
                   options.timeout = 1ms;
                   return without_value(bench->manager.acquire(bench->path, options), bench->lock);
                 },
                 [bench, &kept](const Result<void>& result) {
                   return result || (result.error().code == Errc::timed_out && !result.error().holder)
                              ? "it was acquired, or the answer does not say who holds it"
                              : kept.judge();
                 }};
  };
  inject_faults({.operation = "acquire until a time-out",
                 .situation = situation,
                 .own_errors = {Errc::timed_out},
                 .with_lasting = false});
}

// --- what was found here ---------------------------------------------------------------------------------------------

TEST_CASE("a lock file that cannot be looked at for a moment is not lost") {
  // An fstat that failed was taken for a number that is another's: the hold ended, and its file stayed.
  const Workplace directory;
  Bench bench(directory.path());
  value_or_throw(bench.acquire());
  {
    const Script script(failing(sys::Call::fstat, EIO));
    CHECK(bench.lock.verify().error().code == std::errc::io_error);
    CHECK(bench.lock.guarded([] {}).error().code == std::errc::io_error);
    CHECK(bench.lock.release().error().code == std::errc::io_error);
    CHECK(bench.lock.owns());
  }
  CHECK(bench.judge_hold().empty());
}

TEST_CASE("a hold whose file cannot be looked at when its last handle goes leaves no descriptor behind") {
  const Workplace directory;
  Bench bench(directory.path());
  value_or_throw(bench.acquire());
  const std::size_t descriptors = count_descriptors();
  value_or_throw(bench.lock.release());
  {
    const Script script(failing(sys::Call::fstat, EIO));
    bench.lock = SessionLock();
  }
  CHECK(count_descriptors() == descriptors - 2);  // the file's and the directory's
}

TEST_CASE("a joined lock that cannot be read for a moment is not lost") {
  const Workplace directory;
  Bench owner(directory.path());
  value_or_throw(owner.acquire());
  const auto joined = value_or_throw(LockManager().join(owner.path, *owner.lock.record().lock_id));
  {
    const Script script(failing(sys::Call::pread, EIO));
    CHECK(joined.verify().error().code == std::errc::io_error);
    CHECK(joined.guarded([] {}).error().code == std::errc::io_error);
  }
  CHECK(joined.guarded([] {}).has_value());
}
