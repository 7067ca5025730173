#pragma once

/// \file
/// Two processes at one session, each held up before a chosen system call: every pair of such places is tried.
///
/// For a pair (i, j): A runs until it is about to make its i-th call and stops there; B runs until its j-th call, or
/// until it can only wait for A. Then an adversary may do something, and both go on: once A first, once B first. After
/// each pair the oracle is asked: nobody was inside while another was; nobody unlinked an inode that it had not locked
/// and compared; who has a lock has looked, since, whether the session is still the lock's; nobody wrote where
/// another's lock lies; every acknowledged record stands in the transcript, once and whole; nothing is left; and nobody
/// hangs.

#include <functional>
#include <string_view>

namespace sessionlock::test {

/// What one of the two does.
enum class Role {
  take,      ///< Acquires, waiting if need be; appends under a guarded write; releases.
  try_take,  ///< The same without waiting.
  release,   ///< Has the lock from the start; appends, and releases.
  sweep,     ///< Clears the directory.
  force,     ///< Takes away by force whatever lock it finds.
  usurp      ///< Does that, then takes the session as `take` does.
};

/// What is at the lock path when they start.
enum class Found { nothing, dead_owner, orphan, abandoned };

/// What a third one does while both are stopped.
enum class Adversary {
  none,
  kill,     ///< Kills A.
  remove,   ///< Removes the lock file without looking.
  replace,  ///< Renames a running program's lock over it.
  rename,   ///< Renames the directory.
  link,     ///< Makes the session a symbolic link to another, the target.
  unlink    ///< Takes the link away that the session was to the target.
};

struct Scenario {
  std::string_view name{};
  Role a{Role::take};
  Role b{Role::take};
  Found found{Found::nothing};
  Adversary adversary{Adversary::none};
  /// Everything that a waiter waits for raises an event, so no timer may be what tells it.
  bool is_told{false};
  /// B is at the target, by its own name.
  bool b_is_at_target{false};
};

/// Where processes are stopped: before every system call, or only before those that another process can notice or that
/// notice another.
enum class Stops { all, shared };

/// Tries every pair of every scenario that is wanted, and prints how many there were. Violations are doctest failures.
void check_schedules(Stops stops, const std::function<bool(const Scenario&)>& is_wanted);

}  // namespace sessionlock::test
