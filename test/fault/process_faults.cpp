// Every system call of PID files, sentinels, gates and signals fails in every way it can.

#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
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

template <class T>
Result<void> forget_value(const Result<T>& result) {
  return result ? Result<void>{} : tl::unexpected(result.error());
}

PidFileOptions at_once() {
  PidFileOptions options;
  options.format = PidFileFormat::colon;
  options.timeout = 0ms;
  return options;
}

std::string text_of(pid_t pid, const std::string& start) {
  return std::to_string(pid) + ":" + start + "\n";
}

struct ClaimBench {
  fs::path path;
  std::optional<PidClaim> claim{};

  Result<void> act() {
    auto result = PidFile::claim(path, at_once());
    if (!result) {
      return tl::unexpected(std::move(result).error());
    }
    claim.emplace(std::move(*result));
    return {};
  }
  std::string judge_again() {
    claim.reset();
    if (auto again = act(); !again || !claim->file) {
      return "it cannot be claimed afterwards: " + (again ? "somebody runs" : again.error().message());
    }
    if (const auto found = inspect_pid_file(path); !found || found->state != PidFileState::alive) {
      return "it is not alive";
    }
    if (const auto released = claim->file->release(); !released) {
      return "it cannot be released: " + released.error().message();
    }
    return fs::exists(path) ? "the file outlives the release" : "";
  }
};

void claim_with_faults(const std::string& operation, const std::string& before) {
  const auto situation = [&](const fs::path& directory) {
    auto bench = std::make_shared<ClaimBench>(ClaimBench{directory / "d.pid"});
    if (!before.empty()) {
      plant(bench->path, before);
    }
    const auto planted = inode_of(bench->path);
    return Trial{[bench] { return bench->act(); },
                 [bench, planted](const Result<void>& result) -> std::string {
                   // A pid that cannot be asked for may be anybody's, and its file stays.
                   if (result && !bench->claim->file && bench->claim->running->state == PidFileState::stale) {
                     return "a dead owner keeps it: " + bench->claim->running->explanation();
                   }
                   const auto left = inode_of(bench->path);
                   if (!result && left != 0 && left != planted) {
                     return "a failed claim left a file";
                   }
                   return bench->judge_again();
                 }};
  };
  inject_faults(
      {.operation = operation, .situation = situation, .own_errors = {Errc::unsupported_file_system, Errc::timed_out}});
}

}  // namespace

// --- PID files -------------------------------------------------------------------------------------------------------

TEST_CASE("whatever fails, a PID file is claimed or not, and nothing is left") {
  claim_with_faults("claim a PID file", "");
  claim_with_faults("claim a dead owner's PID file", text_of(dead_pid(), "1"));
}

TEST_CASE("whatever fails, a running owner's PID file is left alone") {
  const auto owner = idle_process();
  const Workplace directory;
  const fs::path path = directory.path() / "d.pid";
  const std::string text = text_of(owner.pid(), start_of(owner.pid()));
  plant(path, text);
  make_older(path, 1h);
  const auto inode = inode_of(path);
  const auto untouched = [&]() -> std::string {
    return inode_of(path) == inode && read_text(path) == text ? "" : "somebody's PID file was touched";
  };
  const auto claim = [&](const fs::path&) {
    return Trial{[&] {
                   const auto claimed = PidFile::claim(path, at_once());
                   REQUIRE((!claimed || claimed->running.has_value()));
                   return forget_value(claimed);
                 },
                 [&](const Result<void>&) { return untouched(); }};
  };
  inject_faults({.operation = "claim a running owner's PID file",
                 .situation = claim,
                 .own_errors = {Errc::unsupported_file_system, Errc::timed_out}});
  const auto inspect = [&](const fs::path&) {
    auto found = std::make_shared<PidFileInspection>();
    return Trial{[&, found]() -> Result<void> {
                   auto result = inspect_pid_file(path);
                   *found = result ? *result : PidFileInspection{};
                   return forget_value(result);
                 },
                 [&, found](const Result<void>& result) {
                   const bool gone = found->state == PidFileState::stale || found->state == PidFileState::missing;
                   return result && gone ? "it is said to be gone: " + found->explanation() : untouched();
                 }};
  };
  inject_faults({.operation = "inspect a running owner's PID file", .situation = inspect});
  const auto remove = [&](const fs::path&) {
    return Trial{[&] { return forget_value(remove_pid_file(path, RemoveWhose::own_or_stale)); },
                 [&](const Result<void>& result) { return result ? "it was removed" : untouched(); }};
  };
  inject_faults({.operation = "remove a running owner's PID file", .situation = remove, .own_errors = {Errc::locked}});
}

TEST_CASE("whatever fails, a PID file is removed by its owner or its end, or can be") {
  const auto release = [](bool by_destructor) {
    return [by_destructor](const fs::path& directory) {
      auto bench = std::make_shared<ClaimBench>(ClaimBench{directory / "d.pid"});
      value_or_throw(bench->act());
      return Trial{[bench, by_destructor]() -> Result<void> {
                     if (by_destructor) {
                       bench->claim.reset();
                       return {};
                     }
                     return bench->claim->file->release();
                   },
                   [bench, by_destructor](const Result<void>& result) -> std::string {
                     if (by_destructor) {  // names this process, which lives: removed by name
                       return remove_pid_file(bench->path, RemoveWhose::own_or_stale) ? bench->judge_again()
                                                                                      : "it cannot be removed";
                     }
                     if (result.has_value() == fs::exists(bench->path)) {
                       return "the answer and the file do not agree";
                     }
                     if (const auto again = bench->claim->file->release(); !again) {
                       return "it cannot be repeated: " + again.error().message();
                     }
                     return bench->judge_again();
                   }};
    };
  };
  inject_faults({.operation = "release a PID file", .situation = release(false), .own_errors = {Errc::timed_out}});
  inject_faults({.operation = "release a PID file by a destructor", .situation = release(true)});
  const std::string text = text_of(dead_pid(), "1");
  const auto remove = [&](const fs::path& directory) {
    auto bench = std::make_shared<ClaimBench>(ClaimBench{directory / "d.pid"});
    plant(bench->path, text);
    return Trial{[bench] { return forget_value(remove_pid_file(bench->path, RemoveWhose::own_or_stale)); },
                 [bench](const Result<void>& result) -> std::string {
                   return result.has_value() == fs::exists(bench->path) ? "the answer and the file do not agree"
                                                                        : bench->judge_again();
                 }};
  };
  inject_faults({.operation = "remove a dead owner's PID file", .situation = remove, .own_errors = {Errc::locked}});
}

TEST_CASE("a PID file that cannot be read again under its lock is not taken for abandoned") {
  // It was judged by the empty text that a failed read leaves, whatever it said by then.
  const auto owner = idle_process();
  const Workplace directory;
  const fs::path path = directory.path() / "d.pid";
  const std::string live = text_of(owner.pid(), start_of(owner.pid()));
  const KnownTraits traits(directory.path());
  traits.settle();  // the first flock is to be that of the removal
  const auto try_it = [&](const std::function<Result<void>()>& act) {
    write_text(path, text_of(dead_pid(), "1"));
    make_older(path, 1h);
    bool locked = false;
    const Script script([&](const sys::CallInfo& info) {
      if (info.call == sys::Call::flock && !std::exchange(locked, true)) {
        write_text(path, live);  // as a program does that writes in place
        make_older(path, 1h);
      }
      return locked && info.call == sys::Call::pread ? EIO : 0;
    });
    const auto result = act();
    CHECK(locked);
    CHECK((!result && result.error().code == std::errc::io_error));
  };
  try_it([&] { return forget_value(PidFile::claim(path, at_once())); });
  CHECK(read_text(path) == live);
  try_it([&] { return forget_value(remove_pid_file(path, RemoveWhose::own_or_stale)); });
  CHECK(read_text(path) == live);
}

// --- sentinels -------------------------------------------------------------------------------------------------------

TEST_CASE("whatever fails, a sentinel says what it said or what it was told") {
  constexpr std::string_view k_former = "4102444800000\n";  // the year 2100, which is more than a year away: corrupt
  const auto set = [](std::string_view before) {
    return [before](const fs::path& directory) {
      const fs::path path = directory / "stop";
      if (!before.empty()) {
        plant(path, before);
      }
      return Trial{[path] { return Sentinel(path).set(1h); },
                   [path, before](const Result<void>& result) -> std::string {
                     const std::string text = read_text(path);
                     if (!result && text != before) {
                       return "a failed call changed it: " + text;
                     }
                     if (result && !Sentinel(path).active().value_or(false)) {
                       return "it was set, and is not active";
                     }
                     if (!Sentinel(path).set(2h) || !Sentinel(path).active().value_or(false)) {
                       return "it cannot be set afterwards";
                     }
                     return Sentinel(path).clear() && !fs::exists(path) ? "" : "it cannot be cleared afterwards";
                   }};
    };
  };
  const std::vector own = {Errc::unsupported_file_system, Errc::timed_out};
  inject_faults({.operation = "set a sentinel", .situation = set(""), .own_errors = own});
  inject_faults({.operation = "set a sentinel anew", .situation = set(k_former), .own_errors = own});
}

TEST_CASE("whatever fails, a sentinel that stands is active, and one that does not stand is not") {
  const auto active = [](std::chrono::milliseconds ttl) {
    return [ttl](const fs::path& directory) {
      const Sentinel sentinel(directory / "stop");
      value_or_throw(sentinel.set(1h));
      if (ttl <= 0ms) {
        write_text(sentinel.path(), "1\n");
      }
      auto answer = std::make_shared<bool>(ttl > 0ms);
      return Trial{[sentinel, answer]() -> Result<void> {
                     const auto result = sentinel.active();
                     *answer = result.value_or(*answer);
                     return forget_value(result);
                   },
                   [sentinel, answer, ttl](const Result<void>&) -> std::string {
                     if (*answer != (ttl > 0ms) || sentinel.active().value_or(!*answer) != *answer) {
                       return "it says the opposite";
                     }
                     return fs::exists(sentinel.path()) == *answer ? "" : "it is there or not as it should not";
                   }};
    };
  };
  inject_faults({.operation = "ask an active sentinel", .situation = active(1h)});
  inject_faults({.operation = "ask an expired sentinel", .situation = active(0ms)});
  const auto clear = [](const fs::path& directory) {
    const Sentinel sentinel(directory / "stop");
    value_or_throw(sentinel.set(1h));
    return Trial{[sentinel] { return sentinel.clear(); },
                 [sentinel](const Result<void>& result) -> std::string {
                   if (result.has_value() == fs::exists(sentinel.path())) {
                     return "the answer and the file do not agree";
                   }
                   return sentinel.clear() && !fs::exists(sentinel.path()) ? "" : "it cannot be cleared afterwards";
                 }};
  };
  inject_faults({.operation = "clear a sentinel", .situation = clear, .own_errors = {Errc::timed_out}});
}

TEST_CASE("a sentinel that cannot be read again under its lock is not taken away") {
  const Workplace directory;
  const Sentinel sentinel(directory.path() / "stop");
  plant(sentinel.path(), "1\n");
  bool locked = false;
  {
    const Script script([&](const sys::CallInfo& info) {
      if (info.call == sys::Call::flock && !std::exchange(locked, true)) {
        write_text(sentinel.path(), std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(
                                                       (std::chrono::system_clock::now() + 1h).time_since_epoch())
                                                       .count()));
      }
      return locked && info.call == sys::Call::pread ? EIO : 0;
    });
    CHECK(sentinel.active().has_value());
  }
  CHECK(locked);
  CHECK(sentinel.active().value_or(false));
}

TEST_CASE("a sentinel that cannot be opened to be cleared is not said to have a bad descriptor") {
  const Workplace directory;
  const Sentinel sentinel(directory.path() / "stop");
  value_or_throw(sentinel.set(1h));
  for (const auto call : {sys::Call::openat, sys::Call::fstat}) {
    const Script script([&](const sys::CallInfo& info) {
      const bool is_its = info.path == nullptr || info.path == std::string_view("stop");
      return info.call == call && is_its ? EIO : 0;
    });
    CHECK(sentinel.clear().error().code == std::errc::io_error);
  }
  CHECK(sentinel.clear().has_value());
}

// --- gates -----------------------------------------------------------------------------------------------------------

TEST_CASE("whatever fails, a gate lets one in or says why it does not") {
  const auto enter = [](const std::string& before) {
    return [before](const fs::path& directory) {
      const fs::path path = directory / "spawn.lock";
      if (!before.empty()) {
        plant(path, before);
      }
      auto entry = std::make_shared<GateEntry>();
      const auto act = [path, entry]() -> Result<void> {
        auto result = SpawnGate(path).try_enter();
        if (!result) {
          return tl::unexpected(std::move(result).error());
        }
        *entry = std::move(*result);
        return {};
      };
      return Trial{act, [=](const Result<void>& result) -> std::string {
                     if (result && entry->outcome == GateOutcome::acquired && !entry->lock.verify()) {
                       return "it was entered, and is not held";
                     }
                     *entry = {};
                     retry_releases();
                     if (before.empty() && fs::exists(path)) {
                       return "the gate's file stays";
                     }
                     if (!act() || entry->outcome != GateOutcome::acquired || !SpawnGate::touch(entry->lock)) {
                       return "it cannot be entered afterwards";
                     }
                     return entry->lock.release() && !fs::exists(path) ? "" : "it cannot be left afterwards";
                   }};
    };
  };
  const std::vector own = {Errc::unsupported_file_system};
  inject_faults({.operation = "enter a gate", .situation = enter(""), .own_errors = own});
  inject_faults({.operation = "enter a gate whose owner died",
                 .situation = enter(foreign_record(dead_pid(), "1")),
                 .own_errors = own});
}

TEST_CASE("whatever fails, nobody passes a gate that somebody is in") {
  const auto owner = idle_process();
  const Workplace directory;
  const fs::path path = directory.path() / "spawn.lock";
  plant(path, foreign_record(owner.pid(), start_of(owner.pid())));
  const auto inode = inode_of(path);
  GateOptions options;
  options.stale_after = 0ms;
  const auto enter = [&](const fs::path&) {
    return Trial{[&]() -> Result<void> {
                   const auto entry = SpawnGate(path, options).try_enter();
                   REQUIRE((!entry || entry->outcome == GateOutcome::busy));
                   return forget_value(entry);
                 },
                 [&](const Result<void>&) { return inode_of(path) == inode ? "" : "it was taken away"; }};
  };
  inject_faults({.operation = "enter a busy gate", .situation = enter});
  const auto wait = [&](const fs::path&) {
    return Trial{[&] { return SpawnGate(path, options).wait_until_done(1ms); },
                 [&](const Result<void>& result) {
                   return result ? "it is said to be done" : inode_of(path) == inode ? "" : "it was taken away";
                 }};
  };
  inject_faults({.operation = "wait at a busy gate", .situation = wait, .own_errors = {Errc::timed_out}});
}

TEST_CASE("whatever fails, a gate's file is touched or can be") {
  const auto situation = [](const fs::path& directory) {
    auto entry = std::make_shared<GateEntry>(value_or_throw(SpawnGate(directory / "spawn.lock").try_enter()));
    return Trial{[entry] { return SpawnGate::touch(entry->lock); },
                 [entry](const Result<void>&) -> std::string {
                   return SpawnGate::touch(entry->lock) && entry->lock.release() ? "" : "afterwards it cannot be";
                 }};
  };
  inject_faults({.operation = "touch a gate", .situation = situation, .own_errors = {Errc::timed_out}});
}

// --- signals ---------------------------------------------------------------------------------------------------------

TEST_CASE("whatever fails, a signal reaches the process that was meant, or nobody") {
  auto meant = idle_process();
  const ProcessIdentity right = *identify(meant.pid());
  ProcessIdentity wrong = right;
  wrong.start_time_ticks = *right.start_time_ticks - 1;
  const auto harmless = [&](const fs::path&) {
    return Trial{[&] { return forget_value(signal_process(right, SIGCONT)); },
                 [&](const Result<void>&) -> std::string {
                   const auto again = signal_process(right, SIGCONT);
                   return again && again->outcome == SignalOutcome::signalled ? ""
                                                                              : "afterwards it cannot be signalled";
                 }};
  };
  inject_faults({.operation = "signal", .situation = harmless, .has_path = false});
  const auto stranger = [&](const fs::path&) {
    return Trial{[&] {
                   const auto sent = signal_process(wrong, SIGKILL);
                   REQUIRE((!sent || sent->outcome != SignalOutcome::signalled));
                   return forget_value(sent);
                 },
                 [&](const Result<void>&) { return is_pid_alive(meant.pid()) ? "" : "a stranger was killed"; }};
  };
  inject_faults({.operation = "signal a recycled pid", .situation = stranger, .has_path = false});
  CHECK(is_pid_alive(meant.pid()));
}

TEST_CASE("whatever fails, a process is stopped when it is said to be") {
  const auto situation = [](const fs::path&) {
    auto target = std::make_shared<ChildProcess>(ChildProcess::run([](Channel& parent) {
      ::signal(SIGTERM, SIG_DFL);
      parent.tell("here");
      (void)parent.hear();
      return 0;
    }));
    target->expect("here");
    const ProcessIdentity identity = *identify(target->pid());
    auto outcome = std::make_shared<std::optional<SignalOutcome>>();
    return Trial{[=]() -> Result<void> {
                   const auto stopped = stop_process(identity, k_patience);
                   *outcome = stopped ? std::optional(stopped->outcome) : std::nullopt;
                   return forget_value(stopped);
                 },
                 [=](const Result<void>&) -> std::string {
                   const bool gone = *outcome == SignalOutcome::signalled || *outcome == SignalOutcome::gone;
                   if (gone && is_pid_alive(target->pid())) {
                     return "it is said to be gone, and lives";
                   }
                   const auto again = stop_process(identity, k_patience);
                   const bool stopped = again && !is_pid_alive(target->pid());
                   (void)target->wait();
                   return stopped ? "" : "it cannot be stopped afterwards";
                 }};
  };
  inject_faults({.operation = "stop", .situation = situation, .has_path = false});
}
