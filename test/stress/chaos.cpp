// Many processes at a few sessions, in a PID namespace of their own, while some are killed, stopped, forked and
// replaced, pids are given out again at once, other programs lock too, garbage is planted, locks are forced and a sweep
// never ends.
//
// SESSIONLOCK_CHAOS_SECONDS says for how long, SESSIONLOCK_CHAOS_SEED with which random numbers; `scripts/chaos` sets
// both. The seed decides what is done to whom and when; what the kernel's scheduler makes of it is its own affair.

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <new>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sessionlock/sessionlock.hpp>

#include "faults.hpp"
#include "lock_tools.hpp"
#include "process.hpp"
#include "protocol/lock_file.hpp"
#include "protocol/temporary_name.hpp"
#include "verdict/classify.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

namespace {

constexpr std::size_t k_sessions = 5;
constexpr std::size_t k_workers = 6;
constexpr std::size_t k_foreigners = 2;
constexpr std::size_t k_slots = k_workers + k_foreigners + 3;  // a sweeper, a forcer, a planter
constexpr std::size_t k_records_max = std::size_t{1} << 22U;   // of a session
constexpr std::size_t k_violations_max = 64;
constexpr std::size_t k_forced_kept = 4096;
/// Between two things done to somebody.
constexpr auto k_between_blows = 20ms;
/// Nobody is stopped for longer.
constexpr auto k_stop_max = 60ms;
/// What a lock without an owner is taken for a lock being born.
constexpr auto k_grace = 1s;
/// By then somebody else must have a dead owner's lock; far more than it takes.
constexpr auto k_bound = 20s;
/// Nobody may wait longer for a session, whoever is stopped and killed meanwhile.
constexpr auto k_timeout = 40s;

// --- what all processes share ----------------------------------------------------------------------------------------

struct SharedSession {
  /// Who is inside a guarded write, as a token; 0 for nobody.
  std::atomic<std::uint64_t> inside{0};
  std::atomic<std::uint64_t> next_record{0};
  /// A bit for each record: it was acknowledged; its append failed.
  std::array<std::atomic<std::uint64_t>, k_records_max / 64> acknowledged{};
  std::array<std::atomic<std::uint64_t>, k_records_max / 64> failed{};
};

struct Slot {
  std::atomic<std::uint64_t> incarnation{0};
  /// It is about to end in whatever it does.
  std::atomic<bool> is_doomed{false};
};

struct World {
  std::array<SharedSession, k_sessions> sessions{};
  std::array<Slot, k_slots> slots{};
  std::atomic<bool> is_over{false};
  std::atomic<std::uint64_t> acquisitions{0}, foreign_acquisitions{0}, refusals{0}, records{0}, lost{0}, forced{0},
      planted{0}, swept{0}, sweeps{0}, forks{0}, execs{0}, exits{0}, heirs{0}, longest_wait_ms{0};
  std::array<std::atomic<std::uint64_t>, k_stale_reason_count> reclaims{};
  std::array<std::array<char, 33>, k_forced_kept> forced_ids{};
  std::atomic<std::uint64_t> forced_count{0};
  std::atomic<std::uint64_t> violation_count{0};
  std::array<std::array<char, 400>, k_violations_max> violations{};

  void complain(const std::string& what) {
    const auto number = violation_count.fetch_add(1);
    if (number < k_violations_max) {
      std::snprintf(violations[number].data(), violations[number].size(), "%s", what.c_str());
    }
  }
};

World& make_world() {
  void* const memory = ::mmap(nullptr, sizeof(World), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    throw ProcessFailure("mmap");
  }
  return *new (memory) World;
}

template <class Bits>
void set_bit(Bits& bits, std::uint64_t number) {
  bits[number / 64].fetch_or(std::uint64_t{1} << (number % 64));
}
template <class Bits>
bool has_bit(const Bits& bits, std::uint64_t number) {
  return (bits[number / 64].load() >> (number % 64) & 1U) != 0;
}

// --- one process -----------------------------------------------------------------------------------------------------

class Actor {
 public:
  Actor(World& world, const fs::path& directory, std::size_t slot, std::uint64_t seed)
      : world_(world),
        directory_(directory),
        slot_(slot),
        token_((slot + 1) | world.slots[slot].incarnation.load() << 8U),
        random_(seed) {}

  void run() {
    if (slot_ < k_workers) {
      work();
    } else if (slot_ < k_workers + k_foreigners) {
      repeat([this] { lock_as_others_do(); });
    } else if (slot_ == k_workers + k_foreigners) {
      repeat([this] { sweep_all(); });
    } else if (slot_ == k_workers + k_foreigners + 1) {
      repeat([this] { force_one(); });
    } else {
      repeat([this] { plant_one(); });
    }
  }

 private:
  [[nodiscard]] std::uint64_t any(std::uint64_t count) { return random_() % count; }
  [[nodiscard]] bool in_one_of(std::uint64_t count) { return any(count) == 0; }
  void pause(std::chrono::microseconds longest) {
    std::this_thread::sleep_for(std::chrono::microseconds(any(static_cast<std::uint64_t>(longest.count()) + 1)));
  }
  template <class F>
  void repeat(F&& act) {
    while (!world_.is_over.load()) {
      act();
    }
  }
  [[nodiscard]] fs::path session(std::size_t number) const { return directory_ / (std::to_string(number) + ".jsonl"); }
  [[nodiscard]] fs::path lock_of(std::size_t number) const { return session(number).native() + ".lock"; }

  // The oracle: who enters finds nobody, or somebody who was killed there; who leaves is still the one inside.
  void enter(SharedSession& at) {
    const std::uint64_t before = at.inside.exchange(token_);
    if (before == 0) {
      return;
    }
    const Slot& other = world_.slots[(before & 0xffU) - 1];
    if (other.incarnation.load() == before >> 8U && !other.is_doomed.load()) {
      world_.complain("two were inside at once");
    }
  }
  void leave(SharedSession& at) {
    std::uint64_t expected = token_;
    if (!at.inside.compare_exchange_strong(expected, 0)) {
      world_.complain("somebody came in while another was inside");
    }
  }

  void work();
  void use(std::size_t number);
  void write(std::size_t number, const SessionLock& lock);
  Result<void> append(std::size_t number, const SessionLock& lock);
  void judge_loss(const Error& error, const std::string& lock_id);
  void give_up(SessionLock& lock);
  void fork_inside(const SessionLock& lock);
  [[noreturn]] void replace_itself();
  [[noreturn]] void leave_to_heir(const SessionLock& lock);
  void lock_as_others_do();
  void sweep_all();
  void force_one();
  void plant_one();
  [[nodiscard]] std::string garbage(const FileIdentity& file);

  World& world_;
  const fs::path& directory_;
  const std::size_t slot_;
  const std::uint64_t token_;
  std::mt19937_64 random_;
  LockManager manager_{ManagerOptions{.release_at_exit = false}};
};

void Actor::work() {
  std::size_t descriptors = 0;
  for (std::uint64_t round = 1; !world_.is_over.load(); ++round) {
    use(any(k_sessions));
    if (round == 50) {
      descriptors = count_descriptors();
    } else if (round % 200 == 0 && count_descriptors() > descriptors + 2) {
      world_.complain("descriptors grow: " + std::to_string(descriptors) + ", then " +
                      std::to_string(count_descriptors()));
    }
  }
}

void Actor::use(std::size_t number) {
  AcquireOptions options;
  options.stale.malformed_grace = k_grace;
  options.timeout = in_one_of(5) ? 0ms : std::chrono::milliseconds{k_timeout};
  const auto start = Clock::now();
  auto lock = manager_.acquire(session(number), options);
  const auto waited =
      static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start).count());
  for (auto longest = world_.longest_wait_ms.load();
       longest < waited && !world_.longest_wait_ms.compare_exchange_weak(longest, waited);) {
  }
  if (!lock) {
    ++world_.refusals;
    if (lock.error().code != Errc::locked) {
      world_.complain("acquire: " + lock.error().message());
    }
    return;
  }
  ++world_.acquisitions;
  if (const auto& former = lock->reclaimed_from(); former && !former->reasons.empty()) {
    ++world_.reclaims[static_cast<std::size_t>(former->reasons.front())];
  }
  // Time to be forced, and writes before and after it.
  for (auto writes = in_one_of(20) ? 3U : 1U; writes > 0; --writes) {
    if (in_one_of(10)) {
      pause(2000us);
    }
    write(number, *lock);
  }
  if (in_one_of(50)) {
    fork_inside(*lock);
  }
  if (in_one_of(400)) {
    replace_itself();
  }
  if (in_one_of(400)) {
    leave_to_heir(*lock);
  }
  if (in_one_of(400)) {
    world_.slots[slot_].is_doomed.store(true);
    ++world_.exits;
    ::_exit(0);
  }
  give_up(*lock);
}

void Actor::write(std::size_t number, const SessionLock& lock) {
  SharedSession& at = world_.sessions[number];
  const std::string id = lock.record().lock_id.value_or("");
  const auto written = lock.guarded([&]() -> Result<void> {
    enter(at);
    if (in_one_of(1000)) {
      world_.slots[slot_].is_doomed.store(true);
      ++world_.exits;
      ::_exit(0);
    }
    auto done = append(number, lock);
    leave(at);
    return done;
  });
  if (!written) {
    judge_loss(written.error(), id);
  }
}

Result<void> Actor::append(std::size_t number, const SessionLock& lock) {
  SharedSession& at = world_.sessions[number];
  const std::uint64_t record = at.next_record.fetch_add(1);
  if (record >= k_records_max) {
    return {};
  }
  // Acknowledged or failed; a killed one is neither.
  const auto failed = [&](Error error) -> Result<void> {
    set_bit(at.failed, record);
    return tl::unexpected(std::move(error));
  };
  auto transcript = Transcript::open(const_cast<SessionLock&>(lock));
  if (!transcript) {
    return failed(transcript.error());
  }
  const std::string text = "{\"record\":" + std::to_string(record) + ",\"by\":" + std::to_string(::getpid()) +
                           ",\"filler\":\"" + std::string(any(100), 'x') + "\"}";
  if (const auto appended = transcript->append(text); !appended) {
    return failed(appended.error());
  }
  set_bit(at.acknowledged, record);
  ++world_.records;
  return {};
}

/// Only what somebody forced may be lost.
void Actor::judge_loss(const Error& error, const std::string& lock_id) {
  if (error.code != Errc::lost) {
    world_.complain("write or release: " + error.message());
    return;
  }
  ++world_.lost;
  const bool was_forced = std::any_of(world_.forced_ids.begin(), world_.forced_ids.end(),
                                      [&](const auto& id) { return lock_id == id.data(); });
  if (!was_forced) {
    world_.complain("lost, and nobody forced it: " + error.message());
  }
}

void Actor::give_up(SessionLock& lock) {
  const std::string id = lock.record().lock_id.value_or("");
  if (in_one_of(10)) {
    lock = SessionLock();
    return;
  }
  if (const auto released = lock.release(); !released) {
    judge_loss(released.error(), id);
  }
}

/// A child that was not meant to have the lock has it not, and takes nothing along when it ends.
void Actor::fork_inside(const SessionLock& lock) {
  ++world_.forks;
  const pid_t child = ::fork();
  if (child == 0) {
    const bool has_it = lock.owns() || lock.verify().has_value() || lock.guarded([] {}).has_value();
    ::_exit(has_it ? 1 : 0);
  }
  int status = 0;
  while (child > 0 && ::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (child > 0 && WIFEXITED(status) && WEXITSTATUS(status) != 0) {
    world_.complain("a forked child has its parent's lock");
  }
}

/// Becomes another program, with the lock left behind under its own pid until that ends.
void Actor::replace_itself() {
  world_.slots[slot_].is_doomed.store(true);
  ++world_.execs;
  ::execlp("sleep", "sleep", "0.01", nullptr);
  ::_exit(0);
}

/// Ends while a child that was given the lock lives on.
void Actor::leave_to_heir(const SessionLock& lock) {
  std::string name = "sleep";
  std::string duration = "0.02";
  std::array<char*, 3> arguments{name.data(), duration.data(), nullptr};
  (void)lock.spawn_with(name.c_str(), arguments.data(), environ);
  world_.slots[slot_].is_doomed.store(true);
  ++world_.heirs;
  ::_exit(0);
}

/// Create, then write; hold; remove by name: what other programs do. Its record has a start time, so nobody may take
/// it.
void Actor::lock_as_others_do() {
  const std::size_t number = any(k_sessions);
  const fs::path lock = lock_of(number);
  static const std::string start = start_of(::getpid());
  const std::string text = foreign_record(::getpid(), start);
  const int fd = ::open(lock.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR);
  if (fd < 0) {
    pause(500us);
    return;
  }
  pause(300us);
  const bool written = ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  struct stat status {};
  const bool is_its_own = ::fstat(fd, &status) == 0 && inode_of(lock) == status.st_ino;
  ::close(fd);
  if (!written || !is_its_own) {
    return;  // it took longer than the grace; what is there is another's
  }
  ++world_.foreign_acquisitions;
  enter(world_.sessions[number]);
  pause(1000us);
  leave(world_.sessions[number]);
  ::unlink(lock.c_str());
  pause(5000us);
}

void Actor::sweep_all() {
  SweepOptions options;
  options.stale.malformed_grace = k_grace;
  const auto report = sweep(directory_, options);
  ++world_.sweeps;
  if (!report) {
    world_.complain("sweep: " + report.error().message());
    return;
  }
  world_.swept += report->removed.size();
  for (const auto& error : report->errors) {
    world_.complain("sweep: " + error.message());
  }
  pause(10'000us);
}

void Actor::force_one() {
  const fs::path path = session(any(k_sessions));
  const auto found = manager_.inspect(path);
  if (found && found->state == LockState::held && found->record.lock_id) {
    const std::string& id = *found->record.lock_id;
    auto& kept = world_.forced_ids[world_.forced_count.fetch_add(1) % k_forced_kept];
    std::snprintf(kept.data(), kept.size(), "%s", id.c_str());  // before, so that its owner finds it
    world_.forced += manager_.force_release(path, id, true) ? 1U : 0U;
  }
  pause(10'000us);
}

/// A lock that is nobody's, of some kind.
std::string Actor::garbage(const FileIdentity& file) {
  LockRecord record = own_record();
  switch (any(7)) {
    case 0:
      return "";
    case 1:
      return "{\"pid\": 12";
    case 2:
      return "\xff\xfe\x00garbage";
    case 3:
      record.pid = 1;
      record.starttime = *record.starttime + 1'000'000;
      return format_lock_record(record);
    case 4:
      return foreign_record(1, "1");
    case 5:
      record.pid_namespace = *record.pid_namespace + 1;
      record.witness = format_witness(file);
      return format_lock_record(record);
    default:
      record.boot_id = "00000000-0000-4000-8000-000000000000";
      return format_lock_record(record);
  }
}

void Actor::plant_one() {
  const std::size_t number = any(k_sessions);
  const fs::path prepared = directory_ / "prepared";
  fs::remove(prepared);
  plant(prepared, "");
  struct stat status {};
  if (::stat(prepared.c_str(), &status) != 0) {
    return;
  }
  write_text(prepared, garbage({status.st_dev, status.st_ino}));
  const bool is_temporary = in_one_of(4);
  if (is_temporary || !in_one_of(20)) {
    make_older(prepared, 24h * 365 * 20);  // nobody's at once; otherwise it might be a lock being born
  }
  if (is_temporary) {
    fs::rename(prepared, directory_ / temporary_name(std::to_string(number) + ".jsonl.lock", std::string(32, 'a')));
  } else {
    for (int i = 0; i < 200 && !world_.is_over.load(); ++i) {
      if (::link(prepared.c_str(), lock_of(number).c_str()) == 0) {
        ++world_.planted;
        break;
      }
    }
  }
  fs::remove(prepared);
  pause(40'000us);
}

// --- who makes them, and what is done to them ------------------------------------------------------------------------

class Director {
 public:
  Director(Channel& parent, std::chrono::seconds duration, std::uint64_t seed)
      : parent_(parent),
        directory_(TmpfsMount::mount("mode=0700").value()),
        end_(Clock::now() + duration),
        seed_(seed),
        random_(seed) {}

  /// Prints the figures; returns how many things were wrong.
  std::uint64_t run();

 private:
  void start(std::size_t slot);
  /// Waits for whoever ends, its own or adopted, and puts another in its place.
  void reap();
  void strike();
  void look_for_dead_locks();
  void finish();
  void judge_session(std::size_t number);
  void judge_directory();
  void report() const;

  struct Stopped {
    std::size_t slot;
    Clock::time_point until;
  };
  struct Suspect {
    std::uint64_t inode{0};
    Clock::time_point since{};
  };

  Channel& parent_;
  World& world_{make_world()};
  const TmpfsMount directory_;
  const Clock::time_point end_;
  const std::uint64_t seed_;
  std::mt19937_64 random_;
  std::array<pid_t, k_slots> pids_{};
  std::vector<Stopped> stopped_{};
  std::array<Suspect, k_sessions> suspects_{};
  std::uint64_t kills_{0}, stops_{0}, starts_{0}, recycled_{0};
  Clock::duration longest_dead_{};
};

/// The next child gets this pid, if nobody has it: `/proc/sys/kernel/ns_last_pid` is this namespace's own.
void recycle(pid_t pid) {
  std::ofstream("/proc/sys/kernel/ns_last_pid") << pid - 1;
}

void Director::start(std::size_t slot) {
  const pid_t former = pids_[slot];
  // The same number again, or one of a few; nobody counts up to the maximum.
  const pid_t wanted = former > 0 && random_() % 2 == 0 ? former : 20 + static_cast<pid_t>(random_() % 100);
  recycle(wanted);
  world_.slots[slot].incarnation.fetch_add(1);
  world_.slots[slot].is_doomed.store(false);
  const std::uint64_t seed = seed_ + ++starts_;
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    try {
      Actor(world_, directory_.path(), slot, seed).run();
    } catch (const std::exception& error) {
      world_.complain(std::string("exception: ") + error.what());
    }
    ::_exit(0);
  }
  if (pid < 0) {
    world_.complain("fork failed");
    return;
  }
  recycled_ += pid == former ? 1U : 0U;
  pids_[slot] = pid;
}

void Director::reap() {
  for (pid_t pid = 0; (pid = ::waitpid(-1, nullptr, WNOHANG)) > 0;) {
    const auto found = std::find(pids_.begin(), pids_.end(), pid);
    if (found == pids_.end()) {
      continue;  // an heir
    }
    const auto slot = static_cast<std::size_t>(found - pids_.begin());
    std::erase_if(stopped_, [&](const Stopped& stopped) { return stopped.slot == slot; });
    if (!world_.is_over.load()) {
      start(slot);
    } else {
      *found = 0;
    }
  }
}

void Director::strike() {
  const std::size_t slot = random_() % k_slots;
  if (random_() % 3 == 0) {
    // Not another program between create and write: it believes that nobody takes longer there than the grace.
    const bool is_foreign = slot >= k_workers && slot < k_workers + k_foreigners;
    if (!is_foreign && ::kill(pids_[slot], SIGSTOP) == 0) {
      stopped_.push_back({slot, Clock::now() + std::chrono::milliseconds(random_() % k_stop_max.count())});
      ++stops_;
    }
    return;
  }
  world_.slots[slot].is_doomed.store(true);
  kills_ += ::kill(pids_[slot], SIGKILL) == 0 ? 1U : 0U;
}

void Director::look_for_dead_locks() {
  const LockManager manager;
  for (std::size_t number = 0; number < k_sessions; ++number) {
    const fs::path path = directory_.path() / (std::to_string(number) + ".jsonl");
    const auto found = manager.inspect(path, {.malformed_grace = k_grace});
    const std::uint64_t inode = found && found->removable ? inode_of(path.native() + ".lock") : 0;
    Suspect& suspect = suspects_[number];
    if (inode != suspect.inode) {
      suspect = {inode, Clock::now()};
    } else if (inode != 0) {
      longest_dead_ = std::max(longest_dead_, Clock::now() - suspect.since);
      if (Clock::now() - suspect.since > k_bound) {
        world_.complain("nobody takes a dead lock over: " + found->explanation());
        suspect.since = Clock::now();
      }
    }
  }
}

std::uint64_t Director::run() {
  for (std::size_t slot = 0; slot < k_slots; ++slot) {
    start(slot);
  }
  auto next_blow = Clock::now();
  auto next_look = Clock::now();
  while (Clock::now() < end_) {
    std::this_thread::sleep_for(2ms);
    reap();
    for (const auto& stopped : stopped_) {
      if (Clock::now() >= stopped.until) {
        ::kill(pids_[stopped.slot], SIGCONT);
      }
    }
    std::erase_if(stopped_, [](const Stopped& stopped) { return Clock::now() >= stopped.until; });
    if (Clock::now() >= next_blow) {
      strike();
      next_blow = Clock::now() + k_between_blows;
    }
    if (Clock::now() >= next_look) {
      look_for_dead_locks();
      (void)parent_.tell("still at it");  // who hears nothing for long gives up
      next_look = Clock::now() + 100ms;
    }
  }
  finish();
  for (std::size_t number = 0; number < k_sessions; ++number) {
    judge_session(number);
  }
  judge_directory();
  report();
  return world_.violation_count.load();
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
    (void)parent_.tell("still at it");
    if (Clock::now() > patience) {
      world_.complain("somebody does not come to an end");
      return;
    }
    std::this_thread::sleep_for(2ms);
  }
}

/// Every acknowledged record is there once, every failed one nowhere, and every line is whole.
void Director::judge_session(std::size_t number) {
  const fs::path path = directory_.path() / (std::to_string(number) + ".jsonl");
  LockManager manager;
  AcquireOptions options;
  options.stale.malformed_grace = k_grace;
  options.timeout = k_bound;
  auto lock = manager.acquire(path, options);
  if (!lock) {
    world_.complain("at the end it cannot be acquired: " + lock.error().message());
    return;
  }
  const SharedSession& at = world_.sessions[number];
  std::vector<std::uint8_t> seen(std::min(at.next_record.load(), k_records_max));
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    unsigned long long record = 0;
    if (!is_transcript_record(line) || std::sscanf(line.c_str(), "{\"record\":%llu", &record) != 1 ||
        record >= seen.size()) {
      world_.complain("a line is torn: " + line);
      continue;
    }
    ++seen[record];
  }
  for (std::uint64_t record = 0; record < seen.size(); ++record) {
    const bool acknowledged = has_bit(at.acknowledged, record);
    const bool failed = has_bit(at.failed, record);
    if (acknowledged ? seen[record] != 1 : seen[record] > (failed ? 0 : 1)) {
      world_.complain("record " + std::to_string(record) + " of session " + std::to_string(number) + " was " +
                      (acknowledged ? "acknowledged" : "not acknowledged") + " and is there " +
                      std::to_string(seen[record]) + " times");
    }
  }
  (void)lock->release();
}

void Director::judge_directory() {
  (void)sweep(directory_.path());
  for (const auto& name : names_in(directory_.path())) {
    if (!name.ends_with(".jsonl") && !name.ends_with(".torn") && name != "prepared") {
      world_.complain("left behind: " + name);
    }
  }
}

void Director::report() const {
  const auto ms = [](Clock::duration time) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(time).count();
  };
  std::cout << "chaos: " << world_.acquisitions << " acquisitions, " << world_.foreign_acquisitions
            << " by other programs, " << world_.refusals << " refused; " << world_.records << " records acknowledged\n"
            << "chaos: " << kills_ << " kills, " << stops_ << " stops, " << world_.exits << " exits with the lock, "
            << world_.execs << " execs, " << world_.heirs << " heirs, " << world_.forks << " forks inside, " << starts_
            << " starts, " << recycled_ << " of them with the pid of the one before\n"
            << "chaos: " << world_.planted << " dead locks planted, " << world_.forced << " locks forced, "
            << world_.lost << " found lost, " << world_.swept << " swept in " << world_.sweeps << " sweeps\n"
            << "chaos: taken over:";
  for (std::size_t reason = 0; reason < k_stale_reason_count; ++reason) {
    if (const auto count = world_.reclaims[reason].load(); count > 0) {
      std::cout << ' ' << to_string(static_cast<StaleReason>(reason)) << ' ' << count << ';';
    }
  }
  std::cout << " longest wait " << world_.longest_wait_ms << " ms, longest seen dead " << ms(longest_dead_) << " ms\n";
  const auto violations = world_.violation_count.load();
  std::cout << "chaos: " << violations << " violations\n";
  for (std::uint64_t i = 0; i < std::min<std::uint64_t>(violations, k_violations_max); ++i) {
    std::cout << "VIOLATION: " << world_.violations[i].data() << '\n';
  }
  std::cout << std::flush;
}

/// Runs a director as pid 1 of a PID namespace with a `/proc` of its own: when it ends, so does whoever it left. Takes
/// longer than `run_in_namespaces` allows.
int run_in_pid_namespace(Channel& parent, std::chrono::seconds duration, std::uint64_t seed) {
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
    const std::uint64_t violations = Director(parent, duration, seed).run();
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

TEST_CASE(
    "whatever dies, stops, forks or plants, writers never overlap, records are never lost, and locks never stay") {
  const std::chrono::seconds duration{from_environment("SESSIONLOCK_CHAOS_SECONDS", 20)};
  const auto seed = from_environment("SESSIONLOCK_CHAOS_SEED", std::random_device{}());
  std::cout << "chaos: " << duration.count() << " s with seed " << seed << '\n' << std::flush;
  std::string answer;
  auto outer = ChildProcess::run([&](Channel& parent) { return run_in_pid_namespace(parent, duration, seed); });
  while (const auto line = outer.hear()) {  // which is bounded, so the director says something all the time
    answer = *line;
  }
  if (answer.starts_with("not allowed")) {
    skip_aloud(answer);
    return;
  }
  CHECK(answer == "over");
  CHECK(outer.wait().exited_with(0));
}
