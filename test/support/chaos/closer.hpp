#pragma once

/// \file
/// A program that closes everything: while it uses the library it closes descriptors that it did not open, as a program
/// that becomes a daemon does, and opens its own under their numbers.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <mutex>

#include <sessionlock/lock_manager.hpp>

#include "chaos/actor.hpp"
#include "own_descriptors.hpp"
#include "system/system.hpp"

namespace sessionlock::test::chaos {

/// Looks after each call of the library whether its own descriptors are as it opened them.
class Closer : public Actor, private sys::Interceptor {
 public:
  explicit Closer(const Stage& stage);
  ~Closer() override;

 protected:
  void act() override;

 private:
  /// Closes what the library has opened, or some of it, and opens descriptors of its own instead.
  void close_everything();
  /// Complains of each of its own descriptors that is not as it was.
  void check(const char* call);
  /// Returns: whether there was one.
  bool complain_of_changes(const char* call) const;
  /// Makes a call of the library, then checks.
  template <class F>
  auto checked(const char* call, F&& make);
  /// The same; everything is closed at a random one of the moments at which the call begins to sleep.
  template <class F>
  auto closing_in_sleep(const char* call, F&& make);
  int before(const sys::CallInfo& info) override;

  void hold();
  void use(std::size_t number, SessionLock& lock);
  void write(std::size_t number, SessionLock& lock);
  void fork_once(const SessionLock& lock);
  void spawn(const SessionLock& lock);
  void wait_for_session();
  void wait_beside_friend();
  void close_beside_waiter(const std::filesystem::path& path);
  void watch();
  void claim();
  /// Ends a hold that was lost with its descriptors: nobody else may take it while this process lives.
  void take_back(std::size_t number);
  void arm();
  void disarm();

  LockManager manager_;
  const std::filesystem::path own_directory_;
  std::unique_ptr<OwnDescriptors> own_{};
  /// How often a thread has gone to sleep in the library.
  std::atomic<int> sleeps_{0};
  std::mutex closing_;
  /// Guarded by `closing_`: sleeps until everything is closed; 0: it is not.
  int sleeps_until_close_{0};
};

}  // namespace sessionlock::test::chaos
