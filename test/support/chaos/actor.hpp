#pragma once

/// \file
/// One process of a chaos run, and what it needs.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include <sessionlock/lock_manager.hpp>

#include "chaos/world.hpp"

namespace sessionlock::test::chaos {

/// Where an actor appears.
struct Stage {
  World& world;
  /// The directory of the sessions.
  std::filesystem::path directory;
  std::size_t slot{};
  std::uint64_t seed{};
  /// Descriptors of time namespaces whose clocks differ.
  std::vector<int> time_namespaces{};
};

/// A line for a session, and its number there.
struct NumberedRecord {
  std::uint64_t number{};
  std::string text{};
};

/// What one process does until the run is over. One of its own for each process.
class Actor {
 public:
  explicit Actor(const Stage& stage);
  virtual ~Actor() = default;
  Actor(const Actor&) = delete;
  Actor& operator=(const Actor&) = delete;

  /// Acts again and again until the run is over.
  void run();

 protected:
  virtual void act() = 0;

  /// A number below `count`.
  [[nodiscard]] std::uint64_t any(std::uint64_t count) { return random_() % count; }
  [[nodiscard]] bool in_one_of(std::uint64_t count) { return any(count) == 0; }
  /// Sleeps no longer than that.
  void pause(std::chrono::microseconds longest);
  /// To be called before it ends on purpose, so that nobody takes what it leaves for a living process's.
  void announce_end() { slot().is_doomed.store(true); }

  [[nodiscard]] World& world() const { return stage_.world; }
  [[nodiscard]] Figures& figures() const { return stage_.world.figures; }
  [[nodiscard]] Slot& slot() const { return stage_.world.slots[stage_.slot]; }
  [[nodiscard]] const Stage& stage() const { return stage_; }
  [[nodiscard]] const Token& token() const { return token_; }
  [[nodiscard]] const std::filesystem::path& directory() const { return stage_.directory; }
  [[nodiscard]] std::filesystem::path session(std::size_t number) const;
  [[nodiscard]] std::filesystem::path lock_of(std::size_t number) const;

  /// How its manager is made.
  [[nodiscard]] static ManagerOptions manager_options();
  /// How it acquires.
  [[nodiscard]] static AcquireOptions acquire_options(std::chrono::milliseconds timeout);
  /// Whether a neighbour may be the reason of a failure; counts it then.
  [[nodiscard]] bool is_obstructed(const Error& error) const;
  /// Counts an acquire that failed, and complains unless the session was held, or a neighbour was in the way.
  void judge_refusal(const Error& error) const;
  /// Complains of a write or release that failed, unless the lock was forced, or a neighbour was in the way.
  void judge_loss(const Error& error, std::string_view lock_id) const;
  /// The next record of a session; none once there are enough.
  [[nodiscard]] std::optional<NumberedRecord> next_record(std::size_t number) const;
  /// Notes what became of one; if the process is killed before that, it may be there or not.
  void settle_record(std::size_t number, const NumberedRecord& record, bool was_written) const;

 private:
  const Stage stage_;
  const Token token_;
  std::mt19937_64 random_;
};

/// The path of a session.
[[nodiscard]] std::filesystem::path session_path(const std::filesystem::path& directory, std::size_t number);

/// As which user a process acts, where the directory is shared.
enum class As {
  owner,       ///< The directory's.
  time_owner,  ///< The same, with the right to enter time namespaces.
  neighbour    ///< Another of the directory's group, and another in each slot.
};

/// What the processes of a slot do.
struct Role {
  std::string_view name{};
  std::unique_ptr<Actor> (*make)(const Stage& stage){};
  /// What must have been done at least once.
  Figures::Count Figures::*deed{};
  As as{As::owner};
  /// Whether the director may stop it for a while.
  bool may_be_stopped{true};
  /// Whether the director may kill it. One that it spares shows what a kill would end: a call that never returns.
  bool may_be_killed{true};
  /// Takes back what a process has left that was killed, where no other follows.
  void (*clean_up)(const std::filesystem::path& directory){};
};
/// One role for each slot.
using Cast = std::vector<Role>;

template <class T>
std::unique_ptr<Actor> make_actor(const Stage& stage) {
  return std::make_unique<T>(stage);
}

}  // namespace sessionlock::test::chaos
