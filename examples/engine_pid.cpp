// An engine whose PID file outlives it, and whose stop never hits another process.
//   engine_pid DIR run                  runs until SIGTERM
//   engine_pid DIR status               0 alive, 1 dead (it ended, or was interrupted), 4 unknown
//   engine_pid DIR stop [unverified]    0 signalled and gone, 3 gone before, 1 the pid is another's now, 4 not to be
//   told
//
// DIR/engine.pid says PID IDENTITY; an old version's only PID, which `unverified` accepts.

#include <chrono>
#include <csignal>
#include <filesystem>
#include <iostream>
#include <string>

#include <sessionlock/pid_file.hpp>
#include <sessionlock/process_signal.hpp>

namespace {

using namespace std::chrono_literals;
using sessionlock::PidFileState;
using sessionlock::SignalOutcome;
using sessionlock::value_or_throw;
using std::filesystem::path;

int run(const path& file) {
  sigset_t ends;
  ::sigemptyset(&ends);
  ::sigaddset(&ends, SIGTERM);
  ::sigprocmask(SIG_BLOCK, &ends, nullptr);
  if (const auto last = sessionlock::inspect_pid_file(file); last && last->state == PidFileState::stale) {
    std::clog << "the last run was interrupted, or ended: " << last->explanation() << '\n';
  }
  sessionlock::PidFileOptions options;
  options.format = sessionlock::PidFileFormat::space;
  options.keep = true;
  const auto claim = value_or_throw(sessionlock::PidFile::claim(file, options));
  if (claim.running) {
    std::clog << claim.running->explanation() << '\n';
    return 1;
  }
  std::cout << "started" << std::endl;
  int signal = 0;
  ::sigwait(&ends, &signal);  // here the engine would run
  return 0;
}

int tell_status(const path& file) {
  const auto found = value_or_throw(sessionlock::inspect_pid_file(file));
  std::cout << found.explanation() << '\n';
  const bool dead = found.state == PidFileState::stale || found.state == PidFileState::missing;
  return found.state == PidFileState::alive ? 0 : dead ? 1 : 4;
}

int stop(const path& file, sessionlock::Verification verification) {
  const auto found = value_or_throw(sessionlock::inspect_pid_file(file));
  const auto engine = sessionlock::recorded_process(found.record);
  if (!engine) {
    std::clog << found.explanation() << '\n';  // nobody, or a corrupt identity: nothing to signal
    return found.state == PidFileState::missing || found.state == PidFileState::stale ? 3 : 4;
  }
  const auto report = value_or_throw(sessionlock::stop_process(*engine, 2s, verification));
  std::clog << to_string(report.outcome) << '\n';
  switch (report.outcome) {
    case SignalOutcome::signalled:
      return 0;
    case SignalOutcome::gone:
      return 3;
    case SignalOutcome::recycled:
      return 1;
    case SignalOutcome::unverifiable:
    case SignalOutcome::refused:
      break;
  }
  return 4;
}

}  // namespace

int main(int argc, char** argv) try {
  const std::string action = argc > 2 ? argv[2] : "", option = argc > 3 ? argv[3] : "";
  const path file = path(argc > 1 ? argv[1] : "") / "engine.pid";
  if (action == "run" && argc == 3) {
    return run(file);
  }
  if (action == "status" && argc == 3) {
    return tell_status(file);
  }
  if (action == "stop" && (argc == 3 || (argc == 4 && option == "unverified"))) {
    return stop(file, argc == 4 ? sessionlock::Verification::unverified : sessionlock::Verification::required);
  }
  std::clog << "usage: engine_pid DIR run | status | stop [unverified]\n";
  return 64;
} catch (const std::exception& failure) {
  std::clog << failure.what() << '\n';
  return 1;
}
