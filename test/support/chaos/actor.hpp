#pragma once

/// \file
/// One process of a chaos run, and what it needs.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <random>
#include <string_view>
#include <vector>

#include "chaos/world.hpp"

namespace sessionlock::test::chaos {

/// Where an actor appears.
struct Stage {
  World& world;
  /// The directory of the sessions.
  std::filesystem::path directory;
  std::size_t slot{};
  std::uint64_t seed{};
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
  [[nodiscard]] const Token& token() const { return token_; }
  [[nodiscard]] const std::filesystem::path& directory() const { return stage_.directory; }
  [[nodiscard]] std::filesystem::path session(std::size_t number) const;
  [[nodiscard]] std::filesystem::path lock_of(std::size_t number) const;

 private:
  const Stage stage_;
  const Token token_;
  std::mt19937_64 random_;
};

/// The path of a session.
[[nodiscard]] std::filesystem::path session_path(const std::filesystem::path& directory, std::size_t number);

/// What the processes of a slot do.
struct Role {
  std::string_view name{};
  std::unique_ptr<Actor> (*make)(const Stage& stage){};
  /// Whether the director may stop it for a while.
  bool may_be_stopped{true};
};
/// One role for each slot.
using Cast = std::vector<Role>;

template <class T>
std::unique_ptr<Actor> make_actor(const Stage& stage) {
  return std::make_unique<T>(stage);
}

}  // namespace sessionlock::test::chaos
