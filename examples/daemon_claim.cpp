// A daemon that runs at most once, and is not started while it is being stopped.
//   daemon_claim DIR start [auto] [upgrade]   runs until SIGTERM; `auto`: not while a stop is under way;
//                                             `upgrade`: takes over from a file of an old version, which has no token
//   daemon_claim DIR stop
//
// DIR/serve.pid says PID:STARTTIME, DIR/serve.port the port, DIR/stopping that a stop is under way.

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include <sessionlock/pid_file.hpp>
#include <sessionlock/process_signal.hpp>
#include <sessionlock/sentinel.hpp>

#include "loopback.hpp"

namespace {

using namespace std::chrono_literals;
using sessionlock::value_or_throw;
using std::filesystem::path;

int start(const path& directory, bool automatic, bool upgrade) {
  const sessionlock::Sentinel stopping(directory / "stopping");
  if (automatic && value_or_throw(stopping.active())) {
    std::clog << "not started: a stop is under way\n";
    return 0;
  }
  sigset_t ends;
  ::sigemptyset(&ends);
  ::sigaddset(&ends, SIGTERM);
  ::sigprocmask(SIG_BLOCK, &ends, nullptr);
  sessionlock::PidFileOptions options;
  options.format = sessionlock::PidFileFormat::colon;
  options.invalidate = {directory / "serve.port"};  // a former daemon's port is nobody's, or a stranger's
  options.policy.without_token = upgrade ? sessionlock::UnverifiedOwner::stale : sessionlock::UnverifiedOwner::trust;
  const auto claim = value_or_throw(sessionlock::PidFile::claim(directory / "serve.pid", options));
  if (claim.running) {
    std::clog << "already running (pid " << claim.running->record.pid.value_or(0) << ")\n";
    return 0;
  }
  if (automatic && value_or_throw(stopping.active())) {  // begun between the first look and the claim
    std::clog << "not started: a stop is under way\n";
    return 0;
  }
  const auto listener = loopback::listen(0).value();
  std::ofstream(directory / "serve.port") << loopback::port_of(listener) << '\n';
  std::cout << "started" << std::endl;
  int signal = 0;
  ::sigwait(&ends, &signal);  // here the daemon would serve
  std::filesystem::remove(directory / "serve.port");
  return 0;  // the PID file goes last
}

int stop(const path& directory) {
  const path file = directory / "serve.pid";
  const sessionlock::Sentinel stopping(directory / "stopping");
  value_or_throw(stopping.set(30s));
  const auto process = sessionlock::recorded_process(value_or_throw(sessionlock::inspect_pid_file(file)).record);
  if (process) {
    const auto report = value_or_throw(sessionlock::stop_process(*process, 10s));
    std::clog << to_string(report.outcome) << '\n';
  }
  // Gone already, or a dead daemon's: removed now. Anything else is not ours to remove, and the marker stays until it
  // expires.
  value_or_throw(sessionlock::remove_pid_file(file, sessionlock::RemoveWhose::own_or_stale));
  value_or_throw(stopping.clear());
  return 0;
}

}  // namespace

int main(int argc, char** argv) try {
  const std::vector<std::string> words(argv + 1, argv + argc);
  const auto has = [&](const char* word) { return std::find(words.begin(), words.end(), word) != words.end(); };
  if (words.size() >= 2 && words[1] == "start") {
    return start(words[0], has("auto"), has("upgrade"));
  }
  if (words.size() == 2 && words[1] == "stop") {
    return stop(words[0]);
  }
  std::clog << "usage: daemon_claim DIR start [auto] [upgrade] | stop\n";
  return 64;
} catch (const std::exception& failure) {
  std::clog << failure.what() << '\n';
  return 1;
}
