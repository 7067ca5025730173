// A worker that runs at most once.   worker_guard DIR start|status|clean
//
// DIR/worker.pid is JSON: {"pid", "startToken", …, "port", "startedAt"}. Whoever reads it can tell a worker that runs
// from one that is dead, and from another process that was given its pid, also in another container.

#include <csignal>
#include <ctime>
#include <filesystem>
#include <iostream>
#include <string>
#include <string_view>

#include <sessionlock/pid_file.hpp>

#include "loopback.hpp"

namespace {

std::string now() {
  const std::time_t seconds = std::time(nullptr);
  std::tm parts{};
  char text[sizeof "2026-11-20T03:31:48Z"]{};
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", ::gmtime_r(&seconds, &parts));
  return text;
}

int start(const std::filesystem::path& file) {
  sigset_t ends;
  ::sigemptyset(&ends);
  ::sigaddset(&ends, SIGTERM);
  ::sigaddset(&ends, SIGINT);
  ::sigprocmask(SIG_BLOCK, &ends, nullptr);
  const auto listener = loopback::listen(0).value();
  const auto found = sessionlock::inspect_pid_file(file);
  if (found && found->state == sessionlock::PidFileState::stale) {
    std::clog << found->explanation() << '\n';  // dead, or its pid was reused
  }
  sessionlock::PidFileOptions options;
  options.extra_fields =
      "\"port\": " + std::to_string(loopback::port_of(listener)) + ", \"startedAt\": \"" + now() + '"';
  const auto claim = sessionlock::value_or_throw(sessionlock::PidFile::claim(file, options));
  if (claim.running) {
    std::clog << "already running (pid " << claim.running->record.pid.value_or(0) << ")\n";
    return 0;
  }
  std::cout << "started" << std::endl;
  int signal = 0;
  ::sigwait(&ends, &signal);  // here the worker would work
  return 0;                   // the file goes with the claim, if it is still this worker's
}

int tell_status(const std::filesystem::path& file) {
  const auto found = sessionlock::value_or_throw(sessionlock::inspect_pid_file(file));
  std::clog << found.explanation() << '\n';
  if (found.record.pid) {
    std::cout << sessionlock::format_pid_record(found.record);  // with the fields that we know nothing of, verbatim
  }
  return found.state == sessionlock::PidFileState::alive ? 0 : 1;
}

int clean(const std::filesystem::path& file) {
  const auto removal =
      sessionlock::value_or_throw(sessionlock::remove_pid_file(file, sessionlock::RemoveWhose::own_or_stale));
  std::clog << (removal.removed ? "removed: " : "") << removal.found.explanation() << '\n';
  return 0;
}

}  // namespace

int main(int argc, char** argv) try {
  const std::string_view action = argc == 3 ? argv[2] : "";
  const auto file = std::filesystem::path(argc == 3 ? argv[1] : "") / "worker.pid";
  if (action == "start") {
    return start(file);
  }
  if (action == "status") {
    return tell_status(file);
  }
  if (action == "clean") {
    return clean(file);
  }
  std::clog << "usage: worker_guard DIR start|status|clean\n";
  return 64;
} catch (const std::exception& failure) {
  std::clog << failure.what() << '\n';
  return 1;
}
