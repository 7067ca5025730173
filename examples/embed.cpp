#include <iostream>
#include <sessionlock/sessionlock.hpp>

int main() try {
  sessionlock::LockManager manager;
  auto lock = sessionlock::value_or_throw(manager.acquire("run.jsonl", {.label = "nightly"}));  // waits up to a minute
  if (const auto& old = lock.reclaimed_from()) {
    std::clog << "taken over: " << old->explanation() << '\n';
  }
  auto transcript = sessionlock::value_or_throw(sessionlock::Transcript::open(lock));
  sessionlock::value_or_throw(transcript.append(R"({"event":"start"})"));  // whole, under the lock, or not at all
} catch (const sessionlock::LockError& failure) {
  std::cerr << failure.error().message() << '\n';  // who has it, since when, and why that lock is not stale
  return 75;
}
