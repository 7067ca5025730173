#pragma once

/// \file
/// How a peer speaks with `peers.py`, in any language: one line each way, on standard input and output. A peer is
/// started with its name's variant and a path; it locks that path, or `<path>.lock`.
///
///   acquire                   waits for the lock; `ok NS`: when it returned, by CLOCK_MONOTONIC
///   release                   `ok NS`: when it was called
///   cycles N                  acquires and releases N times; `ok NS`: how long that took
///   contend SECONDS ORACLE    acquires and releases for so long, and has the directory ORACLE for 1 ms in between;
///                             `ok CYCLES OVERLAPS`: an overlap is when it was there already, as another was inside
///
/// Anything that fails ends the program with a message.

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>

#include <sys/stat.h>
#include <unistd.h>

namespace peer {

[[noreturn]] inline void fail(const char* what) {
  std::perror(what);
  std::_Exit(EXIT_FAILURE);
}

inline std::int64_t now_ns() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

template <class Lock>
std::string contend(Lock& lock, double seconds, const std::string& oracle) {
  const std::int64_t end = now_ns() + static_cast<std::int64_t>(seconds * 1e9);
  int cycles = 0;
  int overlaps = 0;
  for (; now_ns() < end; ++cycles) {
    lock.acquire();
    if (::mkdir(oracle.c_str(), 0700) == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds{1});
      ::rmdir(oracle.c_str());
    } else if (errno == EEXIST) {
      ++overlaps;
    } else {
      fail("mkdir");
    }
    lock.release();
  }
  return std::to_string(cycles) + " " + std::to_string(overlaps);
}

template <class Lock>
std::string obey(Lock& lock, std::istream& words) {
  std::string command;
  words >> command;
  if (command == "acquire") {
    lock.acquire();
    return std::to_string(now_ns());
  }
  if (command == "release") {
    const std::int64_t begin = now_ns();
    lock.release();
    return std::to_string(begin);
  }
  if (command == "cycles") {
    int count = 0;
    words >> count;
    const std::int64_t begin = now_ns();
    for (int i = 0; i < count; ++i) {
      lock.acquire();
      lock.release();
    }
    return std::to_string(now_ns() - begin);
  }
  double seconds = 0;
  std::string oracle;
  words >> seconds >> oracle;
  return contend(lock, seconds, oracle);
}

/// Obeys until the other side hangs up.
template <class Lock>
int serve(Lock& lock) {
  std::cout << "ready" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::cout << "ok " << obey(lock, words) << std::endl;
  }
  return EXIT_SUCCESS;
}

}  // namespace peer
