#pragma once

/// \file
/// Those who are at the sessions' locks besides the writers: programs of another kind, a sweep, an operator, and one
/// who leaves dead locks behind.

#include <string>

#include <sessionlock/lock_manager.hpp>

#include "chaos/actor.hpp"
#include "verdict/classify.hpp"

namespace sessionlock::test::chaos {

/// A program of another kind: creates its lock file, then writes it; holds; removes it by its name. Its record has a
/// start time, so nobody may take it. Is not to be stopped: such a program relies on the grace between the first two
/// steps.
class Foreigner : public Actor {
 public:
  explicit Foreigner(const Stage& stage);

 protected:
  void act() override;

 private:
  /// Whether it has the lock now.
  [[nodiscard]] bool lock(const std::string& path);
  const std::string start_;
};

/// Sweeps the directory again and again.
class Sweeper : public Actor {
 public:
  using Actor::Actor;

 protected:
  void act() override;

 private:
  void judge_error(const Error& error) const;
};

/// An operator who forces locks of living owners.
class Forcer : public Actor {
 public:
  using Actor::Actor;

 protected:
  void act() override;

 private:
  LockManager manager_{ManagerOptions{.release_at_exit = false}};
};

/// Leaves locks that have no living owner, of all kinds, and unfinished ones.
class Planter : public Actor {
 public:
  using Actor::Actor;

 protected:
  void act() override;

 private:
  [[nodiscard]] std::string dead_lock(const FileIdentity& file);
};

}  // namespace sessionlock::test::chaos
