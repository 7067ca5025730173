#pragma once

/// \file
/// A hostile neighbour: another user of the group that owns the directory of the sessions. The directory is sticky, so
/// it cannot remove or rename what is not its own; everything else that its permissions allow it does.

#include <chrono>
#include <filesystem>
#include <string>
#include <string_view>

#include "chaos/actor.hpp"

namespace sessionlock::test::chaos {

/// How second names of sessions begin, which only the directory's owner can remove.
inline constexpr std::string_view k_alias_prefix = "alias-";

/// A lock that names a living process stays, and writers give up after `k_timeout`: so a process that others name in
/// locks ends by itself after a while, however rarely the director kills on a busy machine.
class ShortLife {
 public:
  void end_in_time() const;

 private:
  std::chrono::steady_clock::time_point end_{std::chrono::steady_clock::now() + std::chrono::seconds{10}};
};

/// A process that does nothing, and whose pid others write into locks.
class Innocent : public Actor {
 public:
  explicit Innocent(const Stage& stage);
  ~Innocent() override;

 protected:
  void act() override;

 private:
  const ShortLife life_{};
};

/// Locks files of others, and puts what is no lock, or a lock that lies, where locks and temporary files belong.
///
/// A regular file that it leaves is nobody's by the library's own rules, at the latest when the process that it names
/// has ended, and is left to them: a program that deletes its own lock file while others remove it for dead is beyond
/// what the protocol promises. What the library never removes it takes back after a moment.
class Neighbour : public Actor {
 public:
  explicit Neighbour(const Stage& stage);
  ~Neighbour() override;

  /// Takes back what this user has left and no rule removes.
  static void clean_up(const std::filesystem::path& directory);

 protected:
  void act() override;

 private:
  void lock_whole_file();
  void lock_ranges();
  void plant_record();
  void plant_obstacle(const std::filesystem::path& path);
  void plant_temporary();
  void alias_session();

  const ShortLife life_{};
  /// Makes something that is no lock; false if the name is taken.
  bool make_obstacle(const std::filesystem::path& path);
  bool make_file(const std::filesystem::path& path);
  [[nodiscard]] std::filesystem::path link_target();
  /// A record that lies, or what is left of one; for an old file also one that only the file's age makes nobody's.
  [[nodiscard]] std::string lie(bool is_old);
  [[nodiscard]] std::string innocent_record();
  [[nodiscard]] std::filesystem::path some_file();
};

}  // namespace sessionlock::test::chaos
