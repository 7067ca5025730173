#include "chaos/director.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <random>
#include <thread>
#include <vector>

#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sessionlock/lock_manager.hpp>

#include "chaos/bystanders.hpp"
#include "chaos/judgement.hpp"
#include "chaos/neighbour.hpp"
#include "chaos/report.hpp"
#include "chaos/surroundings.hpp"
#include "lock_tools.hpp"
#include "process.hpp"

namespace sessionlock::test::chaos {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

/// Between two things done to a process.
constexpr auto k_between_blows = 20ms;
/// No process is stopped for longer.
constexpr auto k_stop_max = 60ms;

/// From then on each role must have done something.
constexpr auto k_long_enough = 10s;

/// The next child gets this pid, if no process has it: `/proc/sys/kernel/ns_last_pid` is this namespace's own.
void recycle(pid_t pid) {
  std::ofstream("/proc/sys/kernel/ns_last_pid") << pid - 1;
}

class Director {
 public:
  Director(Channel& parent, const Plan& plan)
      : parent_(parent),
        plan_(plan),
        directory_(TmpfsMount::mount(plan.is_shared ? shared_directory_options() : "mode=0700").value()),
        bystanders_(directory_.path(), world_.began),
        end_(Clock::now() + plan.duration),
        random_(plan.seed),
        pids_(plan.cast.size()) {}

  /// Prints the figures; returns how many violations there were.
  std::uint64_t run();

 private:
  /// What the directory holds before anything is done in it.
  void furnish();
  void start(std::size_t slot);
  template <class F>
  [[noreturn]] void run_child(std::size_t slot, F&& act);
  void clean_up_after(std::size_t slot);
  void take_aliases_away();
  /// Starts another process in the place of each that has ended.
  void reap();
  void resume_stopped();
  void strike();
  void look_for_dead_locks();
  void finish();
  /// A run in which a role did nothing shows nothing.
  void judge_deeds();

  struct Stopped {
    std::size_t slot;
    Clock::time_point until;
  };
  struct Suspect {
    std::uint64_t inode{0};
    Clock::time_point since{};
  };

  Channel& parent_;
  const Plan& plan_;
  World& world_{World::make()};
  const TmpfsMount directory_;
  const Bystanders bystanders_;
  std::vector<int> time_namespaces_{};
  const Clock::time_point end_;
  std::mt19937_64 random_;
  /// By slot; 0 for one without a process.
  std::vector<pid_t> pids_;
  std::vector<Stopped> stopped_{};
  std::array<Suspect, k_sessions> suspects_{};
  Blows blows_{};
};

void Director::furnish() {
  if (!plan_.is_shared) {
    return;
  }
  world_.has_neighbour = true;
  time_namespaces_ = make_time_namespaces();
  bystanders_.plant();
  make_shared_sessions(directory_.path());
}

/// Acts in a child as its role's user, and ends it.
template <class F>
void Director::run_child(std::size_t slot, F&& act) {
  const Role& role = plan_.cast[slot];
  try {
    if (plan_.is_shared) {
      become(role.as, slot);
    }
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // only now: a change of the user resets it
    act(role);
  } catch (const std::exception& error) {
    world_.complain(std::string(role.name) + ": exception: " + error.what());
  }
  ::_exit(0);
}

void Director::clean_up_after(std::size_t slot) {
  if (plan_.cast[slot].clean_up == nullptr) {
    return;
  }
  const pid_t pid = ::fork();
  if (pid == 0) {
    run_child(slot, [&](const Role& role) { role.clean_up(directory_.path()); });
  }
  while (pid > 0 && ::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

void Director::take_aliases_away() {
  for (const auto& name : names_in(directory_.path())) {
    if (name.starts_with(k_alias_prefix)) {
      ::unlink((directory_ / name).c_str());
    }
  }
}

void Director::start(std::size_t slot) {
  const pid_t former = pids_[slot];
  // The same number again, or one of a few; nothing here counts up to the maximum.
  const pid_t wanted = former > 0 && random_() % 2 == 0 ? former : 20 + static_cast<pid_t>(random_() % 100);
  recycle(wanted);
  world_.slots[slot].incarnation.fetch_add(1);
  world_.slots[slot].is_doomed.store(false);
  const std::uint64_t seed = plan_.seed + ++blows_.starts;
  const pid_t pid = ::fork();
  if (pid == 0) {
    run_child(slot, [&](const Role& role) {
      role.make({world_, directory_.path(), slot, seed, time_namespaces_})->run();
    });
  }
  if (pid < 0) {
    world_.complain("fork failed");
    return;
  }
  blows_.recycled += pid == former ? 1U : 0U;
  pids_[slot] = pid;
}

void Director::reap() {
  for (pid_t pid = 0; (pid = ::waitpid(-1, nullptr, WNOHANG)) > 0;) {
    const auto found = std::find(pids_.begin(), pids_.end(), pid);
    if (found == pids_.end()) {
      continue;  // the child of one that has ended
    }
    const auto slot = static_cast<std::size_t>(found - pids_.begin());
    std::erase_if(stopped_, [&](const Stopped& stopped) { return stopped.slot == slot; });
    if (!world_.is_over.load()) {
      start(slot);
    } else {
      clean_up_after(slot);
      *found = 0;
    }
  }
}

void Director::resume_stopped() {
  std::erase_if(stopped_, [&](const Stopped& stopped) {
    const bool is_due = Clock::now() >= stopped.until;
    if (is_due) {
      ::kill(pids_[stopped.slot], SIGCONT);
    }
    return is_due;
  });
}

void Director::strike() {
  const std::size_t slot = random_() % pids_.size();
  if (pids_[slot] <= 0) {
    return;
  }
  if (random_() % 3 == 0) {
    if (plan_.cast[slot].may_be_stopped && ::kill(pids_[slot], SIGSTOP) == 0) {
      stopped_.push_back({slot, Clock::now() + std::chrono::milliseconds(random_() % k_stop_max.count())});
      ++blows_.stops;
    }
    return;
  }
  if (!plan_.cast[slot].may_be_killed) {
    return;
  }
  world_.slots[slot].is_doomed.store(true);
  blows_.kills += ::kill(pids_[slot], SIGKILL) == 0 ? 1U : 0U;
}

void Director::look_for_dead_locks() {
  const LockManager manager;
  for (std::size_t number = 0; number < k_sessions; ++number) {
    const auto path = session_path(directory_.path(), number);
    const auto found = manager.inspect(path, {.stale = {.malformed_grace = k_grace}});
    const std::uint64_t inode = found && found->removable ? inode_of(path.native() + ".lock") : 0;
    Suspect& suspect = suspects_[number];
    if (inode != suspect.inode) {
      suspect = {inode, Clock::now()};
    } else if (inode != 0) {
      blows_.longest_dead = std::max(blows_.longest_dead, Clock::now() - suspect.since);
      if (Clock::now() - suspect.since > k_bound) {
        world_.complain("nobody takes a dead lock over: " + found->explanation());
        suspect.since = Clock::now();
      }
    }
  }
}

std::uint64_t Director::run() {
  furnish();
  for (std::size_t slot = 0; slot < pids_.size(); ++slot) {
    start(slot);
  }
  auto next_blow = Clock::now();
  auto next_look = Clock::now();
  while (Clock::now() < end_) {
    std::this_thread::sleep_for(2ms);
    reap();
    resume_stopped();
    if (Clock::now() >= next_blow) {
      strike();
      next_blow = Clock::now() + k_between_blows;
    }
    if (Clock::now() >= next_look) {
      take_aliases_away();
      look_for_dead_locks();
      (void)parent_.tell("running");  // the parent's patience is bounded
      next_look = Clock::now() + 100ms;
    }
  }
  finish();
  take_aliases_away();
  for (std::size_t number = 0; number < k_sessions; ++number) {
    judge_session(world_, directory_.path(), number);
  }
  judge_directory(world_, directory_.path());
  if (plan_.is_shared) {
    bystanders_.check(world_);
  }
  judge_deeds();
  report(world_, blows_);
  return world_.violation_count();
}

void Director::finish() {
  world_.is_over.store(true);
  for (const pid_t pid : pids_) {
    if (pid > 0) {
      ::kill(pid, SIGCONT);
    }
  }
  const auto patience = Clock::now() + k_timeout + k_patience;
  while (std::any_of(pids_.begin(), pids_.end(), [](pid_t pid) { return pid > 0; })) {
    reap();
    (void)parent_.tell("running");
    if (Clock::now() > patience) {
      world_.complain("a process does not come to an end");
      return;
    }
    std::this_thread::sleep_for(2ms);
  }
}

void Director::judge_deeds() {
  if (plan_.duration < k_long_enough) {
    return;
  }
  for (const Role& role : plan_.cast) {
    if (role.deed != nullptr && (world_.figures.*role.deed).load() == 0) {
      world_.complain("a role has done nothing: " + std::string(role.name));
    }
  }
}

/// Runs a director as pid 1 of a PID namespace with a `/proc` of its own: when it ends, all its processes end. Takes
/// longer than `run_in_namespaces` allows.
int run_in_pid_namespace(Channel& parent, const Plan& plan) {
  if (::unshare(CLONE_NEWPID | CLONE_NEWNS) != 0 || ::mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    parent.tell("not allowed: a PID namespace");
    return 0;
  }
  const pid_t inner = ::fork();
  if (inner == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0) {
      parent.tell("not allowed: mounting /proc");
      ::_exit(0);
    }
    const std::uint64_t violations = Director(parent, plan).run();
    parent.tell(violations == 0 ? "over" : std::to_string(violations) + " violations");
    std::cout.flush();
    ::_exit(0);
  }
  int status = -1;
  while (::waitpid(inner, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* const text = std::getenv(name);
  return text != nullptr && *text != '\0' ? std::stoull(text) : otherwise;
}

}  // namespace

Plan plan_from_environment(Cast cast, bool is_shared) {
  Plan plan{.duration = std::chrono::seconds{from_environment("SESSIONLOCK_CHAOS_SECONDS", 20)},
            .seed = from_environment("SESSIONLOCK_CHAOS_SEED", std::random_device{}()),
            .cast = std::move(cast),
            .is_shared = is_shared};
  std::cout << "chaos: " << plan.duration.count() << " s with seed " << plan.seed << '\n' << std::flush;
  return plan;
}

std::string perform(const Plan& plan) {
  auto outer = ChildProcess::run([&](Channel& parent) { return run_in_pid_namespace(parent, plan); });
  std::string answer;
  while (auto line = outer.hear()) {  // "running", all the time, because each wait for a line is bounded
    answer = std::move(*line);
  }
  return outer.wait().exited_with(0) ? answer : "it ended before its time, after: " + answer;
}

}  // namespace sessionlock::test::chaos
