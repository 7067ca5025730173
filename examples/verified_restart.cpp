// A worker that is started once by whoever needs it, and replaced by its successor.
//   verified_restart DIR start             starts it unless it runs; 1 if it cannot be started
//   verified_restart DIR restart VERSION   0 only once another process answers with this version
//   verified_restart DIR serve PORT        the worker itself
//
// It listens on a loopback port and answers "who" with its pid and version, which it read from DIR/version. All notices
// go to standard error; standard output belongs to programs that read it.

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sessionlock/pid_file.hpp>
#include <sessionlock/spawn_gate.hpp>

#include "loopback.hpp"

extern char** environ;

namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using std::filesystem::path;

constexpr auto k_patience = 30s;

struct Worker {
  pid_t pid{};
  std::string version{};
  std::uint16_t port{};
};

/// The worker that the PID file names, if it answers.
std::optional<Worker> find_worker(const path& directory) {
  const auto found = sessionlock::inspect_pid_file(directory / "worker.pid");
  if (!found || found->state != sessionlock::PidFileState::alive) {
    return std::nullopt;
  }
  Worker worker;
  const std::string_view field = "\"port\": ";
  const auto at = found->record.extra_fields.find(field);
  if (at == std::string::npos) {
    return std::nullopt;
  }
  worker.port = static_cast<std::uint16_t>(std::stoi(found->record.extra_fields.substr(at + field.size())));
  std::istringstream answer(loopback::ask(worker.port, "who"));
  return answer >> worker.pid >> worker.version && worker.pid == found->record.pid ? std::optional(worker)
                                                                                   : std::nullopt;
}

/// Starts a worker in a session of its own; its notices go to DIR/worker.log.
pid_t spawn_worker(const path& directory, std::uint16_t port) {
  std::string program = "/proc/self/exe", where = directory, action = "serve", number = std::to_string(port);
  char* const arguments[] = {program.data(), where.data(), action.data(), number.data(), nullptr};
  const path log = directory / "worker.log";
  posix_spawn_file_actions_t files;
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  ::posix_spawn_file_actions_addopen(&files, STDERR_FILENO, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
  pid_t child = 0;
  const int error = ::posix_spawn(&child, program.c_str(), &files, &attributes, arguments, environ);
  ::posix_spawnattr_destroy(&attributes);
  ::posix_spawn_file_actions_destroy(&files);
  if (error != 0) {
    throw std::system_error(error, std::generic_category(), "posix_spawn");
  }
  return child;
}

int start_worker(const path& directory) {
  if (const auto worker = find_worker(directory)) {
    std::clog << "already running (pid " << worker->pid << ")\n";
    return 0;
  }
  const pid_t child = spawn_worker(directory, 0);
  for (const auto end = Clock::now() + k_patience; Clock::now() < end; std::this_thread::sleep_for(10ms)) {
    const bool ended = ::waitpid(child, nullptr, WNOHANG) == child;
    if (const auto worker = find_worker(directory)) {
      std::clog << "started (pid " << worker->pid << ")\n";
      return 0;
    }
    if (ended) {
      break;
    }
  }
  std::clog << "the worker could not be started: see " << directory / "worker.log" << '\n';
  return 1;
}

int start(const path& directory) {
  sessionlock::SpawnGate gate(directory / "spawn.lock");
  const auto entry = gate.try_enter();
  if (!entry) {
    // Open: the worker's own claim still keeps a second one from running.
    std::clog << "without a gate: " << entry.error().message() << '\n';
  } else if (entry->outcome == sessionlock::GateOutcome::busy) {
    const auto waited = gate.wait_until_done(k_patience, entry->holder);
    const auto worker = waited ? find_worker(directory) : std::nullopt;
    std::clog << (worker ? "started by another caller\n" : "another caller could not start it\n");
    return worker ? 0 : 1;
  }
  return start_worker(directory);
}

int restart(const path& directory, const std::string& version) {
  const auto old = find_worker(directory);
  if (!old || loopback::ask(old->port, "restart") != "yes") {
    std::clog << "there is no worker to restart\n";
    return 1;
  }
  for (const auto end = Clock::now() + k_patience; Clock::now() < end; std::this_thread::sleep_for(10ms)) {
    const auto worker = find_worker(directory);
    if (!worker || worker->pid == old->pid) {
      continue;
    }
    if (worker->version != version) {
      std::clog << "restarted, but with version " << worker->version << " instead of " << version << '\n';
      return 1;
    }
    std::clog << "restart verified (pid " << worker->pid << ", version " << version << ")\n";
    return 0;
  }
  std::clog << "no successor answers\n";
  return 1;
}

/// Answers until it is to be replaced.
void answer(const loopback::Socket& listener, const std::string& version) {
  for (std::string question; question != "restart";) {
    const int fd = ::accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) {
      continue;
    }
    const loopback::Socket caller{fd};
    question = loopback::read_line(caller);
    loopback::write_line(caller, question == "restart" ? "yes" : std::to_string(::getpid()) + ' ' + version);
  }
}

int serve(const path& directory, std::uint16_t port) {
  std::string version = "none";
  std::ifstream(directory / "version") >> version;
  auto listener = loopback::listen(port);
  if (!listener) {
    std::clog << "somebody else listens on port " << port << '\n';
    return 1;
  }
  port = loopback::port_of(*listener);
  sessionlock::PidFileOptions options;
  options.extra_fields = "\"port\": " + std::to_string(port);
  auto claim = sessionlock::value_or_throw(sessionlock::PidFile::claim(directory / "worker.pid", options));
  if (claim.running) {
    std::clog << "already running (pid " << claim.running->record.pid.value_or(0) << ")\n";
    return 0;
  }
  answer(*listener, version);
  listener.reset();
  // A successor that finds its port taken could not start, so it is not started before the port is free.
  for (bool told = false; !loopback::listen(port); std::this_thread::sleep_for(10ms)) {
    if (!std::exchange(told, true)) {
      std::clog << "waiting for port " << port << std::endl;
    }
  }
  if (const auto released = claim.file->release(); !released) {
    std::clog << released.error().message() << std::endl;  // the successor's own claim finds out what is there
  }
  spawn_worker(directory, port);
  return 0;
}

}  // namespace

int main(int argc, char** argv) try {
  const path directory = argc > 1 ? argv[1] : "";
  const std::string action = argc > 2 ? argv[2] : "", operand = argc > 3 ? argv[3] : "";
  if (action == "start" && argc == 3) {
    return start(directory);
  }
  if (action == "restart" && argc == 4) {
    return restart(directory, operand);
  }
  if (action == "serve" && argc == 4) {
    return serve(directory, static_cast<std::uint16_t>(std::stoi(operand)));
  }
  std::clog << "usage: verified_restart DIR start | restart VERSION | serve PORT\n";
  return 64;
} catch (const std::exception& failure) {
  std::clog << failure.what() << '\n';
  return 1;
}
