#include "race.hpp"

#include <array>
#include <cerrno>
#include <filesystem>
#include <functional>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sessionlock/lock_manager.hpp>
#include <sessionlock/process_identity.hpp>

#include "lock_tools.hpp"
#include "process.hpp"
#include "verdict/classify.hpp"

namespace sessionlock::test {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr auto k_between_plants = 500us;
constexpr int k_attempts = 1000;
constexpr int k_kinds = 9;

struct Course {
  TemporaryDirectory directory{};
  fs::path session = directory / "s.jsonl";
  fs::path lock = directory / "s.jsonl.lock";
  fs::path oracle = directory / "inside";
  Clock::time_point end{};
};

/// One process's own part of the figures.
struct Tally {
  std::uint64_t acquisitions{};
  std::uint64_t reclaims{};
  std::uint64_t overlaps{};
  std::uint64_t failures{};
};

/// Reads a number from the session and writes the next one, slowly enough for somebody else to come in between.
void count_in_session(const Course& course) {
  std::uint64_t number = 0;
  std::istringstream(read_text(course.session)) >> number;
  std::this_thread::yield();
  write_text(course.session, std::to_string(number + 1));
}

void enter_once(const Course& course, LockManager& manager, Tally& tally) {
  auto lock = manager.acquire(course.session);
  if (!lock) {
    std::cerr << "acquire: " << lock.error().message() << '\n';
    ++tally.failures;
    return;
  }
  ++tally.acquisitions;
  tally.reclaims += lock->reclaimed_from() ? 1U : 0U;
  const bool alone = ::mkdir(course.oracle.c_str(), S_IRWXU) == 0;
  tally.overlaps += alone ? 0U : 1U;
  if (const auto written = lock->guarded([&] { count_in_session(course); }); !written) {
    std::cerr << "guarded: " << written.error().message() << '\n';
    ++tally.failures;
  }
  if (alone && ::rmdir(course.oracle.c_str()) != 0) {
    ++tally.overlaps;
  }
  if (const auto released = lock->release(); !released) {
    std::cerr << "release: " << released.error().message() << '\n';
    ++tally.failures;
  }
}

int run_racer(const Course& course, Channel& parent) {
  LockManager manager;
  Tally tally;
  parent.tell("ready");
  parent.expect("go");
  while (Clock::now() < course.end) {
    enter_once(course, manager, tally);
  }
  std::ostringstream line;
  line << tally.acquisitions << ' ' << tally.reclaims << ' ' << tally.overlaps << ' ' << tally.failures;
  parent.tell(line.str());
  return 0;
}

// --- planting --------------------------------------------------------------------------------------------------------

class Planter {
 public:
  Planter(const Course& course, std::vector<pid_t> racers)
      : course_(course), racers_(std::move(racers)), prepared_(course.directory / "prepared"), dead_(dead_pid()) {}

  /// Plants a lock of some kind if the path is free.
  bool plant(std::uint64_t number) {
    const int kind = static_cast<int>(number % k_kinds);
    if (kind == 0) {
      return leave_behind();
    }
    if (number / k_kinds % 2 == 0 && kind <= 4) {
      return create_then_write(text_of(kind, {}));
    }
    return link_complete(kind);
  }

 private:
  /// The path is free for moments only.
  static bool attempt(const std::function<bool()>& plant) {
    for (int i = 0; i < k_attempts; ++i) {
      if (plant()) {
        return true;
      }
    }
    return false;
  }

  /// A real process takes the lock and dies with it.
  bool leave_behind() {
    return ChildProcess::run([this](Channel&) {
             const auto lock = LockManager().acquire(course_.session);
             ::_exit(lock ? 0 : 1);
             return 0;
           })
        .wait()
        .exited_with(0);
  }

  [[nodiscard]] std::string text_of(int kind, const FileIdentity& file) {
    LockRecord record = own_record();
    const ProcessIdentity self = this_process();
    const pid_t racer = racers_[next_racer_++ % racers_.size()];
    switch (kind) {
      case 1:
        return foreign_record(dead_);
      case 2:
        return foreign_record(self.pid, "1");
      case 3:
        record.pid = dead_;
        return format_lock_record(record);
      case 4:
        record.starttime = *self.start_time_ticks - 1;
        return format_lock_record(record);
      case 5:  // as an exec of one of them would leave it: for the others its owner lives
        record.pid = racer;
        record.starttime = process_start_time(racer);
        record.witness = format_witness({WitnessForm::ofd2, file});
        return format_lock_record(record);
      case 6:
        record.pid_namespace = *record.pid_namespace + 1;
        record.witness = format_witness({WitnessForm::ofd2, file});
        return format_lock_record(record);
      case 7:
        record.boot_id = "00000000-0000-4000-8000-000000000000";
        record.witness = format_witness({WitnessForm::ofd, file});
        return format_lock_record(record);
      default:
        return "{}";
    }
  }

  bool create_then_write(const std::string& text) {
    int fd = -1;
    const bool created = attempt([&] {
      fd = ::open(course_.lock.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR);
      return fd >= 0;
    });
    if (!created) {
      return false;
    }
    const bool written = ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    ::close(fd);
    return written;
  }

  bool link_complete(int kind) {
    fs::remove(prepared_);
    test::plant(prepared_, "");
    struct stat status {};
    if (::stat(prepared_.c_str(), &status) != 0) {
      return false;
    }
    write_text(prepared_, text_of(kind, {status.st_dev, status.st_ino}));
    if (kind >= 7) {
      make_older(prepared_, std::chrono::hours{24 * 365 * 10});
    }
    return attempt([this] { return ::link(prepared_.c_str(), course_.lock.c_str()) == 0; });
  }

  const Course& course_;
  std::vector<pid_t> racers_;
  fs::path prepared_;
  pid_t dead_;
  std::size_t next_racer_{0};
};

int run_planter(const Course& course, const std::vector<pid_t>& racers, Channel& parent) {
  Planter planter(course, racers);
  std::uint64_t planted = 0;
  std::uint64_t number = 0;
  // It stops before the racers, so that none of these is left for a racer that is gone already.
  while (Clock::now() < course.end - 500ms) {
    // Of each kind one, however long that takes.
    if (planter.plant(number)) {
      ++planted;
      ++number;
    }
    std::this_thread::sleep_for(k_between_plants);
  }
  parent.tell(std::to_string(planted));
  return 0;
}

}  // namespace

RaceFigures race(std::chrono::seconds duration) {
  Course course;
  course.end = Clock::now() + duration;
  std::vector<ChildProcess> racers;
  std::vector<pid_t> pids;
  for (int i = 0; i < k_racers; ++i) {
    racers.push_back(ChildProcess::run([&](Channel& parent) { return run_racer(course, parent); }));
    racers.back().expect("ready");
    pids.push_back(racers.back().pid());
  }
  auto planter = ChildProcess::run([&](Channel& parent) { return run_planter(course, pids, parent); });
  for (auto& racer : racers) {
    racer.tell("go");
  }
  std::this_thread::sleep_until(course.end);
  RaceFigures figures;
  for (auto& racer : racers) {
    Tally tally;
    std::istringstream(racer.hear().value_or("")) >> tally.acquisitions >> tally.reclaims >> tally.overlaps >>
        tally.failures;
    figures.acquisitions += tally.acquisitions;
    figures.reclaims += tally.reclaims;
    figures.overlaps += tally.overlaps;
    figures.failures += tally.failures + (racer.wait().exited_with(0) ? 0U : 1U);
    std::cout << "racer " << racer.pid() << ": " << tally.acquisitions << " acquisitions\n";
  }
  std::istringstream(planter.hear().value_or("")) >> figures.planted;
  figures.failures += planter.wait().exited_with(0) ? 0U : 1U;
  std::uint64_t counted = 0;
  std::istringstream(read_text(course.session)) >> counted;
  figures.lost_updates = figures.acquisitions - counted;
  std::cout << duration.count() << " s: " << figures.acquisitions << " acquisitions, " << figures.planted
            << " dead locks planted, " << figures.reclaims << " taken over, " << figures.overlaps << " overlaps, "
            << figures.lost_updates << " lost updates, " << figures.failures << " failures\n";
  return figures;
}

}  // namespace sessionlock::test
