#include "exit_race.hpp"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <string>
#include <string_view>
#include <thread>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <sessionlock/lock_manager.hpp>

#include "lock_tools.hpp"
#include "process.hpp"

namespace sessionlock::test {
namespace {

using namespace std::chrono_literals;

/// Long enough for a successor to come in between, short enough for many writes before the end.
constexpr auto k_write_time = 150us;
constexpr auto k_after_clean_up = 2ms;
constexpr int k_exit_times = 40;
constexpr int k_busy_threads = 5;

void write_bytes(int fd, std::string_view text) {
  if (::write(fd, text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    ::_exit(9);
  }
}

/// Begins and ends an entry, slowly, in one guarded write.
bool write_entry(const SessionLock& lock, int fd, std::string_view name) {
  return lock
      .guarded([&] {
        write_bytes(fd, "(" + std::string(name));
        std::this_thread::sleep_for(k_write_time);
        write_bytes(fd, ")\n");
      })
      .has_value();
}

int open_session(const Session& session) {
  return ::open(session.path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

/// Runs after the library's own handler, because it is registered before that.
void linger() {
  std::this_thread::sleep_for(k_after_clean_up);
}

std::atomic<void (*)()> g_at_the_very_end{nullptr};

/// Registers the handler before any library has made a static object, so that it is called when all have been
/// destroyed.
void register_first(int /*count*/, char** /*arguments*/, char** /*environment*/) {
  (void)std::atexit([] {
    if (auto* const function = g_at_the_very_end.load(); function != nullptr) {
      function();
    }
  });
}
[[gnu::section(".preinit_array"), gnu::used]] void (*const g_register_first)(int, char**, char**) = register_first;

ChildProcess exiting_writer(const Session& session, int round) {
  return ChildProcess::run_to_exit([&session, round](Channel& parent) {
    std::atexit(linger);
    static const auto* const lock = new SessionLock(value_or_throw(LockManager().acquire(session.path)));
    const int fd = open_session(session);
    std::thread([fd] {
      while (write_entry(*lock, fd, "first")) {
      }
    }).detach();
    parent.tell("writing");
    parent.expect("exit");
    std::this_thread::sleep_for(std::chrono::microseconds{round % k_exit_times * 10});
    std::thread([] { std::exit(0); }).join();
    return 1;
  });
}

/// Whether nothing of the first writer's comes after the second one has begun.
bool is_in_order(const std::string& text) {
  const auto second = text.find("(second");
  return second != std::string::npos && text.find("first", second) == std::string::npos &&
         text.substr(second).find("(second)\n") == 0 && text.find(")", second) == second + 7;
}

}  // namespace

void ExitFigures::check() const {
  CHECK(overlaps == 0);
  CHECK(failures == 0);
  CHECK(left > 0);
}

ExitFigures exit_while_writing(int rounds) {
  ExitFigures figures;
  for (int round = 0; round < rounds; ++round) {
    const Session session;
    auto writer = exiting_writer(session, round);
    writer.expect("writing");
    writer.tell("exit");
    auto lock = LockManager().acquire(session.path);
    const int fd = open_session(session);
    if (!lock || !write_entry(*lock, fd, "second")) {
      std::cerr << "successor: " << (lock ? "lost" : lock.error().message()) << '\n';
      ++figures.failures;
    } else {
      ++(lock->reclaimed_from() ? figures.left : figures.released);
    }
    const bool ended = writer.wait().exited_with(0);
    figures.overlaps += is_in_order(read_text(session.path)) ? 0U : 1U;
    figures.failures += ended ? 0U : 1U;
    ::close(fd);
  }
  return figures;
}

void run_at_the_very_end(void (*function)()) noexcept {
  g_at_the_very_end.store(function);
}

void exit_while_busy(int rounds) {
  const Session session;
  for (int round = 0; round < rounds; ++round) {
    auto child = ChildProcess::run_to_exit([&](Channel&) {
      run_at_the_very_end(linger);
      for (int thread = 0; thread < k_busy_threads; ++thread) {
        const auto path = session.directory / std::to_string(thread % 3);
        std::thread([path] {
          while (true) {
            // In one thread after another, because what reads a lock is made once for a thread.
            std::thread([&path] {
              const auto lock = LockManager().acquire(path);
              (void)(lock && lock->guarded([] {}));
              (void)LockManager().inspect(path);
            }).join();
          }
        }).detach();
      }
      std::this_thread::sleep_for(std::chrono::milliseconds{1 + round % k_exit_times});
      return 0;
    });
    const auto ended = child.wait();
    REQUIRE(ended.signal == 0);
    REQUIRE(ended.exit_code == 0);
  }
}

}  // namespace sessionlock::test
