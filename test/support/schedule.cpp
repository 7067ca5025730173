#include "schedule.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <initializer_list>
#include <iostream>
#include <memory>
#include <new>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <semaphore.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sessionlock/sessionlock.hpp>

#include "faults.hpp"
#include "lock_tools.hpp"
#include "process.hpp"
#include "protocol/temporary_name.hpp"
#include "script.hpp"

namespace sessionlock::test {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::size_t k_violations_max = 10;
constexpr const char* k_session = "s.jsonl";
/// What the session leads to when an adversary makes it a link, and the name that its file has then.
constexpr const char* k_target = "t.jsonl";
constexpr const char* k_former = "former.jsonl";
/// The label of the locks of the two.
constexpr const char* k_player = "player";
/// The flocks from which on a role does nothing but try again and again, waiting for the other.
int locks_max(Role role) {
  switch (role) {
    case Role::take:
    case Role::try_take:
    case Role::usurp:
      return 7;  // a removal, a guarded write, a release
    case Role::release:
      return 5;
    case Role::force:
      return 3;
    case Role::sweep:
      break;
  }
  return 1000;  // never waits
}

// --- what the three processes share ----------------------------------------------------------------------------------

enum class State : int {
  idle,
  running,
  stopped,  ///< Before its chosen call.
  waiting,  ///< For the other, as far as can be told.
  done
};

/// The locks there are to have.
enum Place : std::size_t { at_session, at_target };

/// One of the two.
struct Seat {
  std::atomic<State> state{State::idle};
  std::atomic<int> stop_at{0};
  std::atomic<int> stops_seen{0};
  /// It is stopped between comparing a lock with its name and unlinking that.
  std::atomic<bool> is_unlinking{false};
  std::atomic<bool> acknowledged{false};
  std::atomic<bool> lost{false};
  /// What it reported of the end of the owner that the lock had at the start, and of the other player's.
  std::atomic<int> reports_of_planted{0};
  std::atomic<int> reports_of_player{0};
  /// Whose lock it got, a `Place`.
  std::atomic<std::size_t> place{at_session};
  sem_t go{};
  Role role{};
  char session[256]{};
  char record[64]{};
  char complaint[512]{};
};

struct Table {
  Seat seats[2]{};
  sem_t news{};
  /// By place.
  std::atomic<int> inside[2]{};
  std::atomic<int> writing[2]{};
  /// The session is a link to the target by now.
  std::atomic<bool> is_link{false};
  /// Somebody removed or replaced locks without asking: holds may overlap then, and guarded writes too.
  std::atomic<bool> is_lawless{false};
  /// A lock was forced: holds may overlap, guarded writes may not.
  std::atomic<bool> is_forced{false};
  /// The directory was renamed: they may be at two sessions now.
  std::atomic<bool> are_apart{false};
  std::atomic<bool> is_told{false};
};

Table& map_table() {
  void* const memory = ::mmap(nullptr, sizeof(Table), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    throw std::runtime_error("mmap");
  }
  auto& table = *new (memory) Table;
  ::sem_init(&table.news, 1, 0);
  for (auto& seat : table.seats) {
    ::sem_init(&seat.go, 1, 0);
  }
  return table;
}

void wait_for(sem_t& semaphore, std::string_view what) {
  struct timespec end {};
  ::clock_gettime(CLOCK_REALTIME, &end);
  end.tv_sec += k_patience.count();
  while (::sem_timedwait(&semaphore, &end) != 0) {
    if (errno != EINTR) {
      throw ProcessFailure("hangs: " + std::string(what));
    }
  }
}

// --- one of the two --------------------------------------------------------------------------------------------------

bool is_lock_name(const char* path) {
  return path != nullptr && std::string_view(path).ends_with(".jsonl.lock");
}

/// Whether the call takes a lock's name from the file that has it.
bool takes_name(const sys::CallInfo& info) {
  return (info.call == sys::Call::unlinkat || info.call == sys::Call::renameat || info.call == sys::Call::renameat2) &&
         is_lock_name(info.path) && info.path[0] != '.';
}

/// Whether another process can notice the call, or the call another process.
bool is_shared(const sys::CallInfo& info) {
  using sys::Call;
  switch (info.call) {
    case Call::flock:
    case Call::linkat:
    case Call::unlinkat:
    case Call::renameat:
    case Call::renameat2:
    case Call::write:
    case Call::ftruncate:
    case Call::poll:
    case Call::inotify_add_watch:
    case Call::pidfd_open:
      return true;
    case Call::openat:
    case Call::fstatat:
    case Call::statx:
      return info.path != nullptr && std::string_view(info.path).find(".jsonl") != std::string_view::npos;
    default:
      return false;
  }
}

class Player : public sys::Interceptor {
 public:
  Player(Table& table, std::size_t number, Stops stops)
      : table_(table), seat_(table.seats[number]), stops_(stops), manager_(ManagerOptions{.release_at_exit = false}) {
    sys::set_interceptor(this);
  }
  ~Player() override { sys::set_interceptor(nullptr); }
  Player(const Player&) = delete;
  Player& operator=(const Player&) = delete;

  /// Plays one role after the other, for ever.
  void play() {
    while (true) {
      wait_for_ever(seat_.go);
      try {
        prepare();
        if (seat_.role == Role::release) {
          tell(State::stopped);  // the lock is held: now the other may begin
          wait_for_ever(seat_.go);
        }
        counts_ = true;
        calls_ = 0;
        locks_ = 0;
        has_looked_at_all_ = false;
        act();
      } catch (const std::exception& error) {
        complain(error.what());
      }
      counts_ = false;
      lock_ = SessionLock();
      tell(State::done);
    }
  }

  int before(const sys::CallInfo& info) override {
    if (!counts_ || inside_oracle_) {
      return 0;
    }
    inside_oracle_ = true;
    judge(info);
    inside_oracle_ = false;
    locks_ += info.call == sys::Call::flock ? 1 : 0;
    if (info.call == sys::Call::poll || (info.call == sys::Call::flock && locks_ >= locks_max(seat_.role))) {
      tell(State::waiting);
    }
    if (stops_ == Stops::all || is_shared(info)) {
      if (++calls_ == seat_.stop_at.load()) {
        ++seat_.stops_seen;
        seat_.is_unlinking.store(takes_name(info));
        tell(State::stopped);
        wait_for_ever(seat_.go);
        seat_.is_unlinking.store(false);
        seat_.state.store(State::running);
        if (info.call == sys::Call::poll) {
          tell(State::waiting);
        }
      }
    }
    note_look(info);
    return 0;
  }

 private:
  static void wait_for_ever(sem_t& semaphore) {
    while (::sem_wait(&semaphore) != 0) {
    }
  }
  void tell(State state) {
    seat_.state.store(state);
    ::sem_post(&table_.news);
  }
  void complain(std::string_view what) const {
    if (seat_.complaint[0] == '\0') {
      std::snprintf(seat_.complaint, sizeof seat_.complaint, "%.*s", static_cast<int>(what.size()), what.data());
    }
  }

  /// It is about to look at its session, or to publish a lock, after which it has to look again.
  void note_look(const sys::CallInfo& info) {
    if (info.call == sys::Call::linkat || takes_name(info)) {
      has_looked_ = false;
    } else if (info.call == sys::Call::statx && info.path != nullptr && session_.filename() == info.path) {
      has_looked_ = true;
      has_looked_at_all_ = true;
      leads_to_target_ = table_.is_link.load() || session_.filename() == k_target;
    }
  }

  [[nodiscard]] bool is_file_taken() const {
    return table_.is_lawless.load() || (table_.is_link.load() && seat_.place.load() == at_session);
  }

  void find_place() {
    const bool is_target = lock_.lock_path().filename() == std::string(k_target) + ".lock";
    seat_.place.store(is_target ? at_target : at_session);
  }

  /// Whether it has the lock of what its session was, at the latest, when it had that.
  void judge_place() const {
    if (!has_looked_) {
      complain("did not look at its session once it had the lock");
    }
    if (leads_to_target_ != (seat_.place.load() == at_target)) {
      complain("has the lock of what its session was before it looked");
    }
  }

  /// INVARIANT 1, seen from outside: a process that unlinks or replaces a lock has that very inode locked.
  void judge(const sys::CallInfo& info) {
    struct stat status {};
    if (info.call == sys::Call::flock && ::fstat(info.fd, &status) == 0) {
      locked_ = status.st_ino;
    }
    if (!takes_name(info) || ::fstatat(info.fd, info.path, &status, AT_SYMLINK_NOFOLLOW) != 0 ||
        table_.is_lawless.load()) {
      return;
    }
    if (status.st_ino != locked_) {
      complain("unlinks or replaces an inode that it did not lock");
    }
    const int fd = ::openat(info.fd, info.path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && ::flock(fd, LOCK_EX | LOCK_NB) == 0) {
      complain("unlinks or replaces a lock that nobody has locked");
    }
    ::close(fd);
  }

  void prepare() {
    session_ = seat_.session;
    seat_.place.store(at_session);
    if (seat_.role == Role::release) {
      lock_ = value_or_throw(manager_.try_acquire(session_, {.label = k_player}));
      find_place();
      enter(table_.inside);
    }
  }

  using Rooms = std::atomic<int>[2];
  void enter(Rooms& rooms) {
    const bool is_inside = &rooms == &table_.inside;
    const bool may_overlap =
        table_.is_lawless.load() || table_.are_apart.load() || (is_inside && table_.is_forced.load());
    if (rooms[seat_.place.load()].fetch_add(1) != 0 && !may_overlap) {
      complain(is_inside ? "two hold the lock at once" : "two are writing at once");
    }
  }
  void leave(Rooms& rooms) { rooms[seat_.place.load()].fetch_sub(1); }

  void act() {
    switch (seat_.role) {
      case Role::take:
      case Role::try_take:
        take();
        return;
      case Role::release:
        write_and_release();
        return;
      case Role::sweep:
        if (const auto report = sweep(session_.parent_path()); !report) {
          complain("sweep: " + report.error().message());
        } else if (!report->errors.empty()) {
          complain("sweep: " + report->errors.front().message());
        } else {
          for (const Inspection& removed : report->removed) {
            note_report(removed);
          }
        }
        return;
      case Role::force:
        force();
        return;
      case Role::usurp:
        force();
        take();
        return;
    }
  }

  void note_report(const Inspection& reported) {
    const bool is_players = reported.record.label == k_player;
    ++(is_players ? seat_.reports_of_player : seat_.reports_of_planted);
  }

  void force() {
    const auto found = manager_.inspect(session_);
    if (found && found->state != LockState::free) {
      table_.is_forced.store(true);
      const std::string name =
          found->record.lock_id.value_or(found->record.pid ? std::to_string(*found->record.pid) : "");
      // It may have gone, or be busy: both are answers.
      if (const auto removed = manager_.force_release(session_, name, true)) {
        note_report(*removed);
      }
    }
  }

  void take() {
    const auto by_timer = counters().wake_ups_by_timer;
    AcquireOptions options;
    options.label = k_player;
    options.timeout =
        seat_.role == Role::try_take ? std::chrono::milliseconds{0} : std::chrono::milliseconds{k_patience};
    auto lock = manager_.acquire(session_, options);
    if (!lock) {
      if (seat_.role != Role::try_take || lock.error().code != Errc::locked) {
        complain("acquire: " + lock.error().message());
      } else if (!has_looked_at_all_) {
        complain("was refused a lock without a look at its session");
      } else if (lock.error().holder->lock_path.filename() !=
                 std::string(leads_to_target_ ? k_target : k_session) + ".lock") {
        complain("was refused the lock of what its session was before it looked");
      }
      return;
    }
    if (table_.is_told.load() && counters().wake_ups_by_timer != by_timer) {
      complain("nobody told it that the lock is free");
    }
    lock_ = std::move(*lock);
    if (lock_.reclaimed_from()) {
      note_report(*lock_.reclaimed_from());
    }
    find_place();
    judge_place();
    enter(table_.inside);
    write_and_release();
  }

  void write_and_release() {
    const auto written = lock_.guarded([&]() -> Result<void> {
      enter(table_.writing);
      auto done = append();
      leave(table_.writing);
      return done;
    });
    seat_.acknowledged.store(written.has_value());
    leave(table_.inside);
    const auto released = lock_.release();
    const auto is_lost = [](const Result<void>& result) { return !result && result.error().code == Errc::lost; };
    if (is_lost(written) || is_lost(released)) {
      seat_.lost.store(true);
      if (!table_.is_forced.load() && !table_.is_lawless.load()) {
        complain("the lock was lost");
      }
      return;
    }
    // Where the session's own file was taken away, an error is the right answer.
    if (!written && !is_file_taken()) {
      complain(written.error().message());
    }
    if (!released && !table_.is_lawless.load()) {
      complain(released.error().message());
    }
  }

  Result<void> append() {
    auto transcript = Transcript::open(lock_);
    if (!transcript) {
      return tl::unexpected(transcript.error());
    }
    const auto appended = transcript->append(seat_.record);
    return appended ? Result<void>{} : tl::unexpected(appended.error());
  }

  Table& table_;
  Seat& seat_;
  Stops stops_;
  LockManager manager_;
  SessionLock lock_{};
  fs::path session_{};
  bool counts_{false};
  bool inside_oracle_{false};
  bool has_looked_{false};
  bool has_looked_at_all_{false};
  bool leads_to_target_{false};  // when it last looked
  int calls_{0};
  int locks_{0};
  ino_t locked_{0};
};

// --- the one who lets them go ----------------------------------------------------------------------------------------

struct ScheduleFigures {
  std::size_t pairs{0};
  std::size_t schedules{0};
  std::size_t kills{0};
  std::vector<std::string> violations{};
};

/// How a pair went: whether each place was reached at all.
struct Reached {
  bool a{false};
  bool b{false};
};

class Director {
 public:
  Director(const Scenario& scenario, Stops stops)
      : scenario_(scenario),
        stops_(stops),
        table_(map_table()),
        idle_(idle_process()),
        dead_record_(foreign_record(dead_pid(), "1")),
        live_record_(foreign_record(idle_.pid(), start_of(idle_.pid()))) {
    for (std::size_t number : {0U, 1U}) {
      hire(number);
    }
  }
  ~Director() {
    players_[0].reset();
    players_[1].reset();
    ::munmap(&table_, sizeof table_);
  }
  Director(const Director&) = delete;
  Director& operator=(const Director&) = delete;

  Reached run(int stop_a, int stop_b, bool a_first);

  [[nodiscard]] ScheduleFigures& figures() { return figures_; }

 private:
  void hire(std::size_t number) {
    Seat& seat = table_.seats[number];
    ::sem_init(&seat.go, 1, 0);
    seat.state.store(State::idle);
    players_[number].emplace(ChildProcess::run([this, number](Channel&) {
      Player(table_, number, stops_).play();
      return 0;
    }));
    // What is found out once is found out now.
    const fs::path session = directory_.path() / "warm-up.jsonl";
    cast(number, number == 0 ? Role::take : Role::try_take, session, "0");
    go(number);
    until(number, {State::done});
    cast(number, Role::sweep, session, "0");
    go(number);
    until(number, {State::done});
  }

  void cast(std::size_t number, Role role, const fs::path& session, const std::string& record) {
    Seat& seat = table_.seats[number];
    seat.role = role;
    seat.stop_at.store(0);
    seat.stops_seen.store(0);
    seat.is_unlinking.store(false);
    seat.acknowledged.store(false);
    seat.lost.store(false);
    seat.reports_of_planted.store(0);
    seat.reports_of_player.store(0);
    seat.complaint[0] = '\0';
    std::snprintf(seat.session, sizeof seat.session, "%s", session.c_str());
    std::snprintf(seat.record, sizeof seat.record, "%s", record.c_str());
  }
  void go(std::size_t number) {
    table_.seats[number].state.store(State::running);
    ::sem_post(&table_.seats[number].go);
  }
  State state(std::size_t number) const { return table_.seats[number].state.load(); }
  void until(std::size_t number, std::initializer_list<State> states) {
    while (std::find(states.begin(), states.end(), state(number)) == states.end()) {
      wait_for(table_.news, scenario_.name);
    }
  }
  /// Lets one go on, if it is stopped, as far as it gets.
  void let(std::size_t number) {
    if (state(number) == State::stopped) {
      go(number);
    }
    until(number, {State::waiting, State::done});
  }
  void finish() {
    while (state(0) != State::done || state(1) != State::done) {
      for (const std::size_t number : {0U, 1U}) {
        if (state(number) == State::stopped) {
          go(number);
        }
      }
      wait_for(table_.news, scenario_.name);
    }
  }

  void empty_rooms() {
    for (const Place place : {at_session, at_target}) {
      table_.inside[place].store(0);
      table_.writing[place].store(0);
    }
  }
  void set_scene(const fs::path& folder);
  void act_adversary(const fs::path& folder);
  void judge(const fs::path& folder, const std::string& place);
  void judge_reports(const std::string& place, bool is_planted_left);
  void complain(const std::string& place, const std::string& what) {
    figures_.violations.push_back(std::string(scenario_.name) + ", " + place + ": " + what);
  }

  const Scenario& scenario_;
  const Stops stops_;
  Table& table_;
  Workplace directory_{};
  ChildProcess idle_;
  std::string dead_record_;
  std::string live_record_;
  std::optional<ChildProcess> players_[2]{};
  ScheduleFigures figures_{};
  int number_{0};
  std::uint64_t foreign_inode_{0};
  /// What the lock said at the start.
  std::optional<std::string> planted_{};
  bool killed_{false};
};

void Director::set_scene(const fs::path& folder) {
  fs::create_directory(folder);
  const fs::path lock = folder / "s.jsonl.lock";
  switch (scenario_.found) {
    case Found::nothing:
      break;
    case Found::dead_owner:
      plant(lock, dead_record_);
      break;
    case Found::orphan: {
      LockRecord record = own_record();
      record.starttime = *record.starttime - 1;
      plant(lock, format_lock_record(record));
      break;
    }
    case Found::abandoned:
      plant(lock, "");
      make_older(lock, std::chrono::hours{1});
      break;
  }
  empty_rooms();
  table_.is_link.store(scenario_.adversary == Adversary::unlink);
  if (scenario_.adversary == Adversary::unlink) {
    fs::create_symlink(k_target, folder / k_session);
  }
  table_.is_lawless.store(scenario_.adversary == Adversary::remove || scenario_.adversary == Adversary::replace);
  table_.is_forced.store(false);
  table_.are_apart.store(scenario_.adversary == Adversary::rename);
  table_.is_told.store(scenario_.is_told);
  killed_ = false;
  foreign_inode_ = 0;
  planted_ = fs::exists(lock) ? std::optional(read_text(lock)) : std::nullopt;
  while (::sem_trywait(&table_.news) == 0) {
  }
}

void Director::act_adversary(const fs::path& folder) {
  const fs::path lock = folder / "s.jsonl.lock";
  switch (scenario_.adversary) {
    case Adversary::none:
      break;
    case Adversary::kill:
      if (state(0) == State::stopped) {
        (void)players_[0]->kill();
        killed_ = true;
        ++figures_.kills;
        empty_rooms();
        table_.seats[0].state.store(State::done);
      }
      break;
    case Adversary::remove:
      fs::remove(lock);
      break;
    case Adversary::replace: {
      if (table_.seats[0].is_unlinking.load() || table_.seats[1].is_unlinking.load()) {
        break;  // nothing can be promised against a program that replaces what it did not lock, in that very moment
      }
      const fs::path fresh = folder / "fresh";
      plant(fresh, live_record_);
      foreign_inode_ = inode_of(fresh);
      fs::rename(fresh, lock);
      break;
    }
    case Adversary::rename:
      fs::rename(folder, folder.native() + ".moved");
      break;
    case Adversary::link:
      if (fs::exists(folder / k_session)) {
        fs::rename(folder / k_session, folder / k_former);
      }
      fs::create_symlink(k_target, folder / k_session);
      table_.is_link.store(true);
      break;
    case Adversary::unlink:
      fs::remove(folder / k_session);
      table_.is_link.store(false);
      break;
  }
}

std::size_t count_records(const std::string& text, std::string_view record, bool& is_whole) {
  std::size_t count = 0;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    count += line == record ? 1U : 0U;
    is_whole = is_whole && is_transcript_record(line);
  }
  is_whole = is_whole && (text.empty() || text.back() == '\n');
  return count;
}

void Director::judge(const fs::path& folder, const std::string& place) {
  bool is_whole = true;
  const fs::path moved = folder.native() + ".moved";
  const std::string target = read_text(folder / k_target);
  std::string session = read_text(folder / k_former) + read_text(moved / k_session);
  if (!table_.is_link.load()) {
    session += read_text(folder / k_session);
  }
  const std::string text = session + target;
  for (std::size_t i = 0; i < 2; ++i) {
    const Seat& seat = table_.seats[i];
    if (seat.complaint[0] != '\0') {
      complain(place, std::string(1, "AB"[i]) + " " + seat.complaint);
    }
    const std::size_t found = count_records(text, seat.record, is_whole);
    const bool dead = i == 0 && killed_;
    if (dead ? found > 1 : found != (seat.acknowledged.load() ? 1U : 0U)) {
      complain(place, "record " + std::string(seat.record) + " is there " + std::to_string(found) + " times");
    }
    const bool must_write = seat.role == Role::take || seat.role == Role::release || seat.role == Role::usurp;
    const bool is_taken = table_.is_lawless.load() || (table_.is_link.load() && seat.place.load() == at_session);
    if (must_write && !dead && !seat.acknowledged.load() && !seat.lost.load() && !is_taken) {
      complain(place, std::string(1, "AB"[i]) + " wrote nothing");
    }
    const std::string& not_its_own = seat.place.load() == at_session ? target : session;
    if (not_its_own.find(seat.record) != std::string::npos) {
      complain(place, std::string(1, "AB"[i]) + " wrote where it has no lock");
    }
  }
  if (!is_whole) {
    complain(place, "the transcript is torn: " + text);
  }
  bool is_planted_left = false;
  for (const auto& at : {folder, moved}) {
    if (!fs::exists(at)) {
      continue;
    }
    for (const auto& name : names_in(at)) {
      const auto inode = inode_of(at / name);
      const bool is_foreign = foreign_inode_ != 0 && inode == foreign_inode_;
      const bool is_planted = is_lock_name(name.c_str()) && planted_ && read_text(at / name) == *planted_;
      is_planted_left = is_planted_left || is_planted;
      const bool is_nobodys = table_.is_link.load() && is_planted;  // any more
      if (killed_ && is_temporary_name(name)) {
        continue;  // of a killed publisher that much may stay; a sweep removes it when it is old
      }
      const bool is_session = name == k_session || name == k_target || name == k_former;
      if (!is_session && name != "s.jsonl.torn" && !is_foreign && !is_nobodys) {
        complain(place, "left behind: " + name);
      }
    }
  }
  judge_reports(place, is_planted_left);
  if (foreign_inode_ != 0 && inode_of(folder / "s.jsonl.lock") != foreign_inode_) {
    complain(place, "a running program's lock was taken away");
  }
}

/// The end of the owner that the lock had at the start is reported once, by what took over or removed that lock; if
/// that was killed meanwhile, its own end is.
void Director::judge_reports(const std::string& place, bool is_planted_left) {
  const auto& [a, b] = table_.seats;
  const int planted = a.reports_of_planted.load() + b.reports_of_planted.load();
  if (planted > (planted_ ? 1 : 0)) {
    complain(place, "the end of a dead owner was reported twice");
  }
  // A sweep that is killed takes its report along.
  const bool was_handed_on = killed_ && (b.reports_of_player.load() == 1 || scenario_.a == Role::sweep);
  if (planted_ && planted == 0 && !is_planted_left && !was_handed_on && !table_.is_lawless.load()) {
    complain(place, "the end of a dead owner was not reported");
  }
  const bool is_false = a.reports_of_player.load() > 0 || b.reports_of_player.load() > (killed_ ? 1 : 0);
  if (is_false && !table_.is_forced.load()) {
    complain(place, "the end of an owner that lives was reported");
  }
}

Reached Director::run(int stop_a, int stop_b, bool a_first) {
  const fs::path folder = directory_.path() / ("d" + std::to_string(++number_));
  const std::string place = "A before call " + std::to_string(stop_a) + ", B before call " + std::to_string(stop_b) +
                            (a_first ? ", A first" : ", B first");
  set_scene(folder);
  const Role roles[2] = {scenario_.a, scenario_.b};
  const int stops[2] = {stop_a, stop_b};
  for (std::size_t i = 0; i < 2; ++i) {
    const bool is_elsewhere = i == 1 && scenario_.b_is_at_target;
    cast(i, roles[i], folder / (is_elsewhere ? k_target : k_session),
         "{\"pair\":" + std::to_string(number_) + ",\"by\":\"" + "AB"[i] + "\"}");
    if (roles[i] == Role::release) {
      go(i);
      until(i, {State::stopped, State::done});
    }
  }
  for (std::size_t i = 0; i < 2; ++i) {
    table_.seats[i].stop_at.store(stops[i]);
    go(i);
    until(i, {State::stopped, State::waiting, State::done});
  }
  const Reached reached{table_.seats[0].stops_seen.load() > 0, table_.seats[1].stops_seen.load() > 0};
  if (reached.a && reached.b) {
    act_adversary(folder);
    let(a_first ? 0 : 1);
    let(a_first ? 1 : 0);
    ++figures_.schedules;
  }
  finish();
  if (reached.a && reached.b) {
    judge(folder, place);
  }
  if (killed_) {
    hire(0);
  }
  std::error_code ignored;
  fs::remove_all(folder, ignored);
  fs::remove_all(folder.native() + ".moved", ignored);
  return reached;
}

const std::vector<Scenario>& scenarios() {
  static const std::vector<Scenario> all = {
      {"two take a free session", Role::take, Role::take, Found::nothing, Adversary::none},
      {"two take over a dead owner's lock", Role::take, Role::take, Found::dead_owner, Adversary::none},
      {"two take over an orphan", Role::take, Role::take, Found::orphan, Adversary::none},
      {"two take over an abandoned file", Role::take, Role::take, Found::abandoned, Adversary::none},
      {"two try to take over a dead owner's lock", Role::try_take, Role::try_take, Found::dead_owner, Adversary::none},
      {"one releases, one waits", Role::release, Role::take, Found::nothing, Adversary::none, true},
      {"one waits, one releases", Role::take, Role::release, Found::nothing, Adversary::none, true},
      {"one sweeps, one takes over", Role::sweep, Role::take, Found::dead_owner, Adversary::none},
      {"one takes over, one sweeps", Role::take, Role::sweep, Found::dead_owner, Adversary::none},
      {"two sweep", Role::sweep, Role::sweep, Found::dead_owner, Adversary::none},
      {"one forces, one writes", Role::force, Role::release, Found::nothing, Adversary::none},
      {"one writes, one forces", Role::release, Role::force, Found::nothing, Adversary::none},
      {"one takes, one forces", Role::take, Role::force, Found::nothing, Adversary::none},
      {"one usurps, one writes", Role::usurp, Role::release, Found::nothing, Adversary::none},
      {"one writes, one usurps", Role::release, Role::usurp, Found::nothing, Adversary::none},
      {"one is killed, one takes", Role::take, Role::take, Found::nothing, Adversary::kill},
      {"one is killed while it takes over", Role::take, Role::take, Found::dead_owner, Adversary::kill},
      {"one is killed while it sweeps", Role::sweep, Role::take, Found::dead_owner, Adversary::kill},
      {"somebody removes the lock", Role::release, Role::try_take, Found::nothing, Adversary::remove},
      {"somebody removes the lock of one who takes", Role::take, Role::try_take, Found::nothing, Adversary::remove},
      {"somebody replaces the lock", Role::release, Role::try_take, Found::nothing, Adversary::replace},
      {"somebody renames the directory", Role::release, Role::try_take, Found::nothing, Adversary::rename},
      {"somebody renames the directory of one who takes", Role::take, Role::take, Found::nothing, Adversary::rename},
      {"the session of two who take it becomes a link", Role::take, Role::take, Found::nothing, Adversary::link},
      {"the session of one who takes it becomes a link, while another has it", Role::take, Role::release,
       Found::nothing, Adversary::link},
      {"the session of one who tries to take it becomes a link, while another has it", Role::try_take, Role::release,
       Found::nothing, Adversary::link},
      {"a dead owner's session becomes a link", Role::take, Role::try_take, Found::dead_owner, Adversary::link},
      {"the link that two take is a link no more", Role::take, Role::take, Found::nothing, Adversary::unlink},
      {"the link that one takes is a link no more, while another has its target", Role::take, Role::release,
       Found::nothing, Adversary::unlink, false, true},
      {"the link that one tries to take is a link no more, while another has its target", Role::try_take, Role::release,
       Found::nothing, Adversary::unlink, false, true},
      {"a session becomes a link to one that another takes", Role::take, Role::take, Found::nothing, Adversary::link,
       false, true},
      {"a session becomes a link to one that another has", Role::take, Role::release, Found::nothing, Adversary::link,
       false, true},
  };
  return all;
}

ScheduleFigures run_schedules(const Scenario& scenario, Stops stops) {
  const auto start = Clock::now();
  Director director(scenario, stops);
  ScheduleFigures& figures = director.figures();
  const auto is_over = [&] { return figures.violations.size() >= k_violations_max; };
  bool a_ends = false;
  for (int a = 1; !a_ends && !is_over(); ++a) {
    a_ends = true;
    for (int b = 1; !is_over(); ++b) {
      const Reached reached = director.run(a, b, true);
      a_ends = a_ends && !reached.a;
      if (!reached.a || !reached.b) {
        break;
      }
      ++figures.pairs;
      if (scenario.adversary != Adversary::kill) {  // then only one is left to go on
        (void)director.run(a, b, false);
      }
    }
  }
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start).count();
  std::cout << "schedules: " << scenario.name << ": " << figures.pairs << " pairs of stop points, " << figures.schedules
            << " schedules, " << figures.kills << " kills, " << figures.violations.size() << " violations, " << ms
            << " ms\n"
            << std::flush;
  return figures;
}

}  // namespace

void check_schedules(Stops stops, const std::function<bool(const Scenario&)>& is_wanted) {
  ScheduleFigures all;
  for (const auto& scenario : scenarios()) {
    if (!is_wanted(scenario)) {
      continue;
    }
    const auto figures = run_schedules(scenario, stops);
    for (const auto& violation : figures.violations) {
      FAIL_CHECK(violation);
    }
    CHECK(figures.pairs > 0);
    all.pairs += figures.pairs;
    all.schedules += figures.schedules;
  }
  std::cout << "schedules: " << all.pairs << " pairs of stop points in all, " << all.schedules << " schedules\n";
}

}  // namespace sessionlock::test
