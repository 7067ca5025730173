// How fast a lock changes hands between processes, and what waiting for it costs.
//
//   handover [--json] [--rounds N] [--seconds S] [--directory DIR]
//
// Measures, between two processes each:
//   * from the call that releases a lock to the return of the call that waited for it, for a session lock and, in the
//     same run and by turns, so that a noisy machine disturbs both alike, for a bare flock(2) as the floor: no lock
//     that sleeps in the kernel can change hands faster;
//   * the same from the SIGKILL that ends the holder;
//   * the processor time that one waiter uses while it waits.
// Every round begins with a waiter that was seen asleep, so what is measured is a wake-up and never a lucky spin. The
// two processes keep to different processors, where there are two: on one, the woken one would have to wait until the
// other falls asleep, which has nothing to do with the lock.

#include <sessionlock/sessionlock.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <fmt/core.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

using namespace std::chrono_literals;
using std::chrono::microseconds;
using std::chrono::nanoseconds;
using std::chrono::steady_clock;
namespace fs = std::filesystem;

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(what);
}
[[noreturn]] void fail_call(const char* call) {
  throw std::system_error(errno, std::system_category(), call);
}

// --- two processes ---------------------------------------------------------------------------------------------------

/// What both processes see.
struct Shared {
  std::atomic<std::int64_t> begin_ns{0};
  std::atomic<std::int64_t> end_ns{0};
};

std::int64_t now_ns() {
  return std::chrono::duration_cast<nanoseconds>(steady_clock::now().time_since_epoch()).count();
}

Shared& map_shared() {
  void* page = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) {
    fail_call("mmap");
  }
  return *new (page) Shared;
}

/// One end of a line between the two, for one-byte signals.
class Line {
 public:
  explicit Line(int fd) : fd_(fd) {}
  Line(Line&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Line& operator=(Line&&) = delete;
  ~Line() {
    if (fd_ >= 0) {
      ::close(fd_);
    }
  }
  void tell() const {
    const char byte = '.';
    if (::write(fd_, &byte, 1) != 1) {
      fail_call("write");
    }
  }
  /// False if the other side is gone.
  [[nodiscard]] bool hear() const {
    char byte = 0;
    return ::read(fd_, &byte, 1) == 1;
  }
  void expect() const {
    if (!hear()) {
      fail("the other process is gone");
    }
  }

 private:
  int fd_;
};

class Child {
 public:
  explicit Child(const std::function<void(Line&)>& body) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
      fail_call("socketpair");
    }
    const pid_t parent = ::getpid();
    pid_ = ::fork();
    if (pid_ < 0) {
      fail_call("fork");
    }
    if (pid_ == 0) {
      ::close(ends[0]);
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      int status = ::getppid() == parent ? 0 : 1;
      try {
        Line line(ends[1]);
        if (status == 0) {
          body(line);
        }
      } catch (const std::exception& error) {
        fmt::print(stderr, "handover: child: {}\n", error.what());
        status = 1;
      }
      ::_exit(status);
    }
    ::close(ends[1]);
    line_.emplace(ends[0]);
  }
  ~Child() {
    line_.reset();
    ::kill(pid_, SIGKILL);
    reap();
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  [[nodiscard]] Line& line() { return *line_; }
  [[nodiscard]] pid_t pid() const { return pid_; }
  void reap() {
    if (!reaped_) {
      ::waitpid(pid_, nullptr, 0);
      reaped_ = true;
    }
  }

 private:
  pid_t pid_{-1};
  bool reaped_{false};
  std::optional<Line> line_;
};

/// Keeps the calling process to one of the processors it may use.
void use_processor(int index) {
  static const cpu_set_t allowed = [] {
    cpu_set_t set;
    CPU_ZERO(&set);
    ::sched_getaffinity(0, sizeof set, &set);
    return set;
  }();
  const int count = CPU_COUNT(&allowed);
  int seen = 0;
  for (std::size_t cpu = 0; count > 1 && cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &allowed) && seen++ == index % count) {
      cpu_set_t one;
      CPU_ZERO(&one);
      CPU_SET(cpu, &one);
      ::sched_setaffinity(0, sizeof one, &one);
    }
  }
}

/// Returns once a process sleeps in a system call, and has done so for a moment.
void wait_until_asleep(pid_t pid) {
  const std::string path = fmt::format("/proc/{}/stat", pid);
  int seen = 0;
  while (seen < 3) {
    std::string line;
    std::getline(std::ifstream(path), line);
    const auto name_end = line.rfind(')');
    if (name_end == std::string::npos || name_end + 2 >= line.size()) {
      fail("the waiter is gone");
    }
    seen = line[name_end + 2] == 'S' ? seen + 1 : 0;
    std::this_thread::sleep_for(200us);
  }
}

// --- figures ---------------------------------------------------------------------------------------------------------

struct Figure {
  std::string name;
  double value{0};
  std::string unit{"us"};
  /// The same of the peer, in the same run.
  std::optional<double> floor{};
  std::string peer{};
  /// What it is to stay under.
  std::optional<double> target{};
  std::optional<double> ratio_target{};

  [[nodiscard]] std::optional<double> ratio() const {
    return floor && *floor > 0 ? std::optional(value / *floor) : std::nullopt;
  }
  [[nodiscard]] bool misses() const {
    return (target && value >= *target) || (ratio_target && ratio() && *ratio() >= *ratio_target);
  }
};

double percentile(const std::vector<double>& sorted, double share) {
  return sorted.at(static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1)));
}

std::vector<double> sorted_us(std::vector<std::int64_t> samples_ns) {
  std::sort(samples_ns.begin(), samples_ns.end());
  std::vector<double> sorted;
  std::transform(samples_ns.begin(), samples_ns.end(), std::back_inserter(sorted),
                 [](std::int64_t ns) { return static_cast<double>(ns) / 1000; });
  return sorted;
}

struct Target {
  std::optional<double> median_us{};
  std::optional<double> median_ratio{};
};

void add_figures(std::vector<Figure>& figures, const std::string& name, const std::vector<std::int64_t>& samples_ns,
                 const std::vector<std::int64_t>& floor_ns, const Target& target) {
  const auto ours = sorted_us(samples_ns);
  const auto floor = sorted_us(floor_ns);
  for (const auto& [label, share] : {std::pair("p50", 0.5), std::pair("p99", 0.99), std::pair("max", 1.0)}) {
    Figure figure{fmt::format("{}.{}", name, label), percentile(ours, share), "us", percentile(floor, share), "flock"};
    if (share == 0.5) {
      figure.target = target.median_us;
      figure.ratio_target = target.median_ratio;
    }
    figures.push_back(std::move(figure));
  }
}

// --- the two kinds of lock -------------------------------------------------------------------------------------------

/// A lock that one process holds and another waits for.
class Lock {
 public:
  virtual ~Lock() = default;
  virtual void acquire() = 0;
  virtual void release() = 0;
};

class Session final : public Lock {
 public:
  explicit Session(fs::path path) : path_(std::move(path)) {}
  void acquire() override {
    lock_ = {};  // what was held before is not to be taken down inside of what is measured
    lock_ = sessionlock::value_or_throw(manager_.acquire(path_, {.timeout = std::chrono::minutes{5}}));
  }
  void release() override { sessionlock::value_or_throw(lock_.release()); }

 private:
  fs::path path_;
  sessionlock::LockManager manager_;
  sessionlock::SessionLock lock_;
};

class Flock final : public Lock {
 public:
  explicit Flock(const fs::path& path) : fd_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {
    if (fd_ < 0) {
      fail_call("open");
    }
  }
  ~Flock() override { ::close(fd_); }
  Flock(const Flock&) = delete;
  Flock& operator=(const Flock&) = delete;
  void acquire() override {
    if (::flock(fd_, LOCK_EX) != 0) {
      fail_call("flock");
    }
  }
  void release() override {
    if (::flock(fd_, LOCK_UN) != 0) {
      fail_call("flock");
    }
  }

 private:
  int fd_;
};

enum class Kind { session, flock };
constexpr Kind k_kinds[] = {Kind::session, Kind::flock};

std::unique_ptr<Lock> make_lock(Kind kind, const fs::path& directory) {
  if (kind == Kind::session) {
    return std::make_unique<Session>(directory / "handover.jsonl");
  }
  return std::make_unique<Flock>(directory / "floor");
}

struct Samples {
  std::vector<std::int64_t> session;
  std::vector<std::int64_t> flock;
  std::vector<std::int64_t>& of(Kind kind) { return kind == Kind::session ? session : flock; }
};

/// This process waits, a child holds and releases.
Samples measure_releases(const fs::path& directory, int rounds) {
  Shared& shared = map_shared();
  const pid_t waiter = ::getpid();
  use_processor(1);
  Child holder([&](Line& line) {
    use_processor(0);
    std::unique_ptr<Lock> locks[] = {make_lock(Kind::session, directory), make_lock(Kind::flock, directory)};
    for (int round = 0;; ++round) {
      Lock& lock = *locks[round % 2];
      lock.acquire();
      line.tell();
      if (!line.hear()) {
        return;
      }
      wait_until_asleep(waiter);
      shared.begin_ns.store(now_ns());
      lock.release();
      line.expect();
    }
  });
  Samples samples;
  std::unique_ptr<Lock> locks[] = {make_lock(Kind::session, directory), make_lock(Kind::flock, directory)};
  for (int round = 0; round < 2 * rounds; ++round) {
    Lock& lock = *locks[round % 2];
    holder.line().expect();
    holder.line().tell();
    lock.acquire();
    samples.of(k_kinds[round % 2]).push_back(now_ns() - shared.begin_ns.load());
    lock.release();
    holder.line().tell();
  }
  return samples;
}

/// A child waits, this process kills the other child that holds.
Samples measure_kills(const fs::path& directory, int rounds) {
  Shared& shared = map_shared();
  use_processor(0);
  Child waiter([&](Line& line) {
    use_processor(1);
    std::unique_ptr<Lock> locks[] = {make_lock(Kind::session, directory), make_lock(Kind::flock, directory)};
    for (int round = 0; line.hear(); ++round) {
      Lock& lock = *locks[round % 2];
      line.tell();
      lock.acquire();
      shared.end_ns.store(now_ns());
      lock.release();
      line.tell();
    }
  });
  Samples samples;
  for (int round = 0; round < 2 * rounds; ++round) {
    const Kind kind = k_kinds[round % 2];
    Child holder([&](Line& line) {
      const auto lock = make_lock(kind, directory);
      lock->acquire();
      line.tell();
      (void)line.hear();
    });
    holder.line().expect();
    waiter.line().tell();
    waiter.line().expect();
    wait_until_asleep(waiter.pid());
    const std::int64_t begin = now_ns();
    ::kill(holder.pid(), SIGKILL);
    waiter.line().expect();
    samples.of(kind).push_back(shared.end_ns.load() - begin);
  }
  return samples;
}

std::chrono::microseconds used_cpu() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto of = [](const timeval& time) { return std::chrono::seconds{time.tv_sec} + microseconds{time.tv_usec}; };
  return of(usage.ru_utime) + of(usage.ru_stime);
}

/// What one wait costs that nothing happens in.
double measure_waiting_ms(const fs::path& directory, std::chrono::seconds duration) {
  Session held(directory / "waiting.jsonl");
  held.acquire();
  Shared& shared = map_shared();
  Child waiter([&](Line& line) {
    sessionlock::LockManager manager;
    line.expect();
    const auto before = used_cpu();
    const auto lock = manager.acquire(directory / "waiting.jsonl", {.timeout = duration});
    if (lock) {
      fail("got a lock that somebody holds");
    }
    shared.end_ns.store(nanoseconds(used_cpu() - before).count());
    line.tell();
  });
  waiter.line().tell();
  waiter.line().expect();
  return static_cast<double>(shared.end_ns.load()) / 1e6;
}

// --- telling ---------------------------------------------------------------------------------------------------------

std::string json_number(std::optional<double> value) {
  return value ? fmt::format("{:.3f}", *value) : "null";
}

void print_json(const std::vector<Figure>& figures) {
  fmt::print("[");
  const char* separator = "\n";
  for (const Figure& figure : figures) {
    fmt::print(
        "{}  {{\"name\": \"{}\", \"value\": {:.3f}, \"unit\": \"{}\", \"floor\": {}, \"ratio\": {}, \"peer\": {}}}",
        separator, figure.name, figure.value, figure.unit, json_number(figure.floor), json_number(figure.ratio()),
        figure.peer.empty() ? "null" : '"' + figure.peer + '"');
    separator = ",\n";
  }
  fmt::print("\n]\n");
}

void print_table(const std::vector<Figure>& figures) {
  fmt::print("{:<26}{:>12}  {:<4}{:>12}{:>8}   {}\n", "", "sessionlock", "", "flock", "ratio", "target");
  for (const Figure& figure : figures) {
    std::string target = figure.target ? fmt::format("< {:g} {}", *figure.target, figure.unit) : "";
    if (figure.ratio_target) {
      target += fmt::format(", < {:g} x", *figure.ratio_target);
    }
    fmt::print("{:<26}{:>12.1f}  {:<4}{:>12}{:>8}   {}{}\n", figure.name, figure.value, figure.unit,
               figure.floor ? fmt::format("{:.1f}", *figure.floor) : "",
               figure.ratio() ? fmt::format("{:.2f}", *figure.ratio()) : "", target, figure.misses() ? "  MISSED" : "");
  }
}

// --- the program -----------------------------------------------------------------------------------------------------

struct Options {
  bool json{false};
  int rounds{1000};
  std::chrono::seconds waiting{10};
  fs::path directory{fs::temp_directory_path()};
};

int parse_count(std::string_view text) {
  int value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  if (parsed.ec != std::errc{} || parsed.ptr != text.data() + text.size() || value < 1) {
    fail(fmt::format("not a count: {}", text));
  }
  return value;
}

Options parse(const std::vector<std::string_view>& arguments) {
  Options options;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const auto value = [&] { return ++i < arguments.size() ? arguments[i] : std::string_view{}; };
    if (arguments[i] == "--json") {
      options.json = true;
    } else if (arguments[i] == "--rounds") {
      options.rounds = parse_count(value());
    } else if (arguments[i] == "--seconds") {
      options.waiting = std::chrono::seconds{parse_count(value())};
    } else if (arguments[i] == "--directory") {
      options.directory = value();
    } else {
      fail("usage: handover [--json] [--rounds N] [--seconds S] [--directory DIR]");
    }
  }
  return options;
}

void run(const Options& options) {
  std::string scratch = (options.directory / "handover.XXXXXX").string();
  if (::mkdtemp(scratch.data()) == nullptr) {
    fail_call("mkdtemp");
  }
  const std::unique_ptr<std::string, void (*)(std::string*)> cleaner(&scratch, [](std::string* path) {
    std::error_code ignored;
    fs::remove_all(*path, ignored);
  });
  std::vector<Figure> figures;
  const Samples releases = measure_releases(scratch, options.rounds);
  add_figures(figures, "handover.release", releases.session, releases.flock, {100, 3.5});
  const Samples kills = measure_kills(scratch, options.rounds);
  add_figures(figures, "handover.sigkill", kills.session, kills.flock, {500, std::nullopt});
  figures.push_back({fmt::format("waiting.{}s.cpu", options.waiting.count()),
                     measure_waiting_ms(scratch, options.waiting), "ms", std::nullopt, "", 5.0});
  (options.json ? print_json : print_table)(figures);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(parse({argv + 1, argv + argc}));
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "handover: {}\n", error.what());
    return 1;
  }
}
