#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <string>

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "system/cancellation.hpp"
#include "system/system.hpp"
#include "system/system_call.hpp"

namespace sessionlock::sys {

Outcome spawn_with_descriptor(int fd, const char* file, char* const argv[], char* const envp[]) {
  return invoke({Call::posix_spawn, fd, file}, [&]() -> std::int64_t {
    posix_spawn_file_actions_t actions;
    pid_t child = -1;
    int error = ::posix_spawn_file_actions_init(&actions);
    if (error == 0) {
      error = ::posix_spawn_file_actions_adddup2(&actions, fd, fd);
      if (error == 0) {
        error = ::posix_spawnp(&child, file, &actions, nullptr, argv, envp);
      }
      ::posix_spawn_file_actions_destroy(&actions);
    }
    errno = error;
    return error == 0 ? child : -1;
  });
}

namespace {

struct Pipe {
  Opened read;
  Opened write;
};

Pipe open_pipe() {
  const Section section;  // over both ends: a forked child with the writing one would keep the reader waiting
  std::array<int, 2> ends{-1, -1};
  Pipe pipe;
  pipe.read = open_with({Call::pipe}, [&] { return ::pipe2(ends.data(), O_CLOEXEC) == 0 ? ends[0] : -1; });
  if (pipe.read.ok()) {
    const int end = adopt(ends[1]);
    pipe.write = end >= 0 ? Opened{OpenedAccess::adopt(end), 0} : Opened{{}, errno};
    expect_as_it_is(pipe.read.fd);
    expect_as_it_is(pipe.write.fd);
  }
  return pipe;
}

/// Starts a program with its standard output at `output` and nothing else; the child's pid as value. The caller's
/// blocked signals are not inherited.
Outcome spawn_writer(int output, const char* file, char* const argv[], char* const envp[]) {
  return invoke({Call::posix_spawn, output, file}, [&]() -> std::int64_t {
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    ::sigemptyset(&none);
    pid_t child = -1;
    int error = ::posix_spawn_file_actions_init(&actions);
    if (error == 0) {
      ::posix_spawnattr_init(&attributes);
      ::posix_spawnattr_setsigmask(&attributes, &none);
      ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
      ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
      ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
      error = ::posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
      if (error == 0) {
        error = ::posix_spawnp(&child, file, &actions, &attributes, argv, envp);
      }
      ::posix_spawnattr_destroy(&attributes);
      ::posix_spawn_file_actions_destroy(&actions);
    }
    errno = error;
    return error == 0 ? child : -1;
  });
}

/// Reads to the end of a pipe. Returns an errno.
int read_to_end(int fd, std::string& output, std::size_t bytes_max, std::chrono::steady_clock::time_point until) {
  while (true) {
    struct ::pollfd readable {
      fd, POLLIN, 0
    };
    if (const auto ready = poll(&readable, 1, until); !ready.ok() || ready.value == 0) {
      return ready.ok() ? ETIMEDOUT : ready.error;
    }
    std::array<char, 4096> buffer{};
    const auto got = read(fd, buffer.data(), buffer.size());
    if (!got.ok() || got.value == 0) {
      return got.error;
    }
    output.append(buffer.data(), static_cast<std::size_t>(got.value));
    if (output.size() > bytes_max) {
      return EFBIG;
    }
  }
}

/// Reaps a child, which gets until then to end by itself. Somebody else may reap it first: a program that ignores
/// SIGCHLD, say. Returns an errno.
int reap(pid_t child, std::chrono::steady_clock::time_point until) {
  const CancellationDisabled disabled;
  int error = 0;
  while (true) {
    int status = 0;
    if (::waitpid(child, &status, WNOHANG) != 0) {  // without waiting it is not interrupted either
      return error;
    }
    if (error == 0 && std::chrono::steady_clock::now() >= until) {
      ::kill(child, SIGKILL);  // ours and not reaped, so the pid is still its own
      error = ETIMEDOUT;
    }
    const struct timespec pause { 0, 1'000'000 };
    ::nanosleep(&pause, nullptr);
  }
}

}  // namespace

Captured capture_output(const char* file, char* const argv[], char* const envp[], std::size_t bytes_max,
                        std::chrono::steady_clock::time_point until) {
  Pipe pipe = open_pipe();
  if (!pipe.read.ok() || !pipe.write.ok()) {
    return {{}, pipe.read.ok() ? pipe.write.error : pipe.read.error};
  }
  const auto child = spawn_writer(pipe.write.fd.get(), file, argv, envp);
  if (!child.ok()) {
    return {{}, child.error};
  }
  pipe.write.fd.reset();
  Captured captured;
  captured.error = read_to_end(pipe.read.fd.get(), captured.output, bytes_max, until);
  pipe.read.fd.reset();
  const auto end = captured.ok() ? until : std::chrono::steady_clock::time_point::min();
  const int error = reap(static_cast<pid_t>(child.value), end);
  captured.error = captured.ok() ? error : captured.error;
  return captured;
}

}  // namespace sessionlock::sys
