#include "chaos/writer.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <utility>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sessionlock/transcript.hpp>

#include "faults.hpp"

namespace sessionlock::test::chaos {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

/// Keeps the larger value.
void raise_to(std::atomic<std::uint64_t>& most, std::uint64_t value) {
  for (auto seen = most.load(); seen < value && !most.compare_exchange_weak(seen, value);) {
  }
}

}  // namespace

Writer::Writer(const Stage& stage) : Actor(stage), manager_(manager_options()) {}

void Writer::act() {
  use(choose());
  ++rounds_;
  look_for_leaks();
}

void Writer::look_for_leaks() {
  if (rounds_ == 50) {
    descriptors_ = count_descriptors();
  } else if (rounds_ % 200 == 0 && count_descriptors() > descriptors_ + 2) {
    world().complain("descriptors grow: " + std::to_string(descriptors_) + ", then " +
                     std::to_string(count_descriptors()));
  }
}

void Writer::use(std::size_t number) {
  const auto start = Clock::now();
  auto lock = manager_.acquire(session(number), acquire_options(in_one_of(5) ? 0ms : k_timeout));
  const auto waited = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start);
  raise_to(figures().longest_wait_ms, static_cast<std::uint64_t>(waited.count()));
  if (!lock) {
    judge_refusal(lock.error());
    return;
  }
  ++figures().acquisitions;
  if (const auto& former = lock->reclaimed_from(); former && !former->reasons.empty()) {
    ++figures().reclaims[static_cast<std::size_t>(former->reasons.front())];
  }
  hold();
  // Several writes leave time for the lock to be forced between two of them.
  for (auto writes = in_one_of(20) ? 3U : 1U; writes > 0; --writes) {
    if (in_one_of(10)) {
      pause(2000us);
    }
    write(number, *lock);
  }
  if (in_one_of(50)) {
    fork_inside(*lock);
  }
  end_somehow(*lock);
  give_up(*lock);
}

/// As a rule it does not end at all.
void Writer::end_somehow(const SessionLock& lock) {
  if (in_one_of(400)) {
    replace_itself();
  }
  if (in_one_of(400)) {
    leave_to_heir(lock);
  }
  if (in_one_of(400)) {
    exit_with_lock();
  }
}

void Writer::write(std::size_t number, SessionLock& lock) {
  Section& section = world().sessions[number].section;
  const std::string id = lock.record().lock_id.value_or("");
  const auto written = lock.guarded([&]() -> Result<void> {
    world().enter(section, token());
    if (in_one_of(1000)) {
      in_one_of(2) ? exit_with_lock() : tear(number);
    }
    auto done = append(number, lock);
    world().leave(section, token());
    return done;
  });
  if (!written) {
    judge_loss(written.error(), id);
  }
}

Result<void> Writer::append(std::size_t number, SessionLock& lock) {
  const auto record = next_record(number);
  if (!record) {
    return {};
  }
  const auto appended = Transcript::open(lock).and_then(
      [&](Transcript transcript) { return transcript.append(std::string_view(record->text)); });
  settle_record(number, *record, appended.has_value());
  return appended ? Result<void>{} : tl::unexpected(appended.error());
}

void Writer::give_up(SessionLock& lock) {
  const std::string id = lock.record().lock_id.value_or("");
  if (in_one_of(10)) {
    lock = SessionLock();
    return;
  }
  if (const auto released = lock.release(); !released) {
    judge_loss(released.error(), id);
  }
}

/// A child that was not given the lock does not have it, and its end takes nothing away.
void Writer::fork_inside(const SessionLock& lock) {
  ++figures().forks;
  const pid_t child = ::fork();
  if (child == 0) {
    const bool has_it = lock.owns() || lock.verify().has_value() || lock.guarded([] {}).has_value();
    ::_exit(has_it ? 1 : 0);
  }
  int status = 0;
  while (child > 0 && ::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (child > 0 && WIFEXITED(status) && WEXITSTATUS(status) != 0) {
    world().complain("a forked child has its parent's lock");
  }
}

/// Becomes another program, which has the recorded pid until it ends, and not the lock.
void Writer::replace_itself() {
  announce_end();
  ++figures().execs;
  ::execlp("sleep", "sleep", "0.01", nullptr);
  ::_exit(0);
}

/// Ends while a child that was given the lock lives on.
void Writer::leave_to_heir(const SessionLock& lock) {
  std::string name = "sleep";
  std::string duration = "0.02";
  std::array<char*, 3> arguments{name.data(), duration.data(), nullptr};
  (void)lock.spawn_with(name.c_str(), arguments.data(), environ);
  announce_end();
  ++figures().heirs;
  ::_exit(0);
}

/// Ends in the middle of a line.
void Writer::tear(std::size_t number) {
  const auto record = next_record(number);
  const int fd = ::open(session(number).c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (record && fd >= 0) {
    (void)!::write(fd, record->text.data(), record->text.size() / 2);
    ++figures().torn;
  }
  exit_with_lock();
}

void Writer::exit_with_lock() {
  announce_end();
  ++figures().exits;
  ::_exit(0);
}

}  // namespace sessionlock::test::chaos
