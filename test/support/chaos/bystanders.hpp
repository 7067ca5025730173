#pragma once

/// \file
/// Files that are no locks, at names where the library meets them, and a program that makes it meet them.

#include <cstddef>
#include <ctime>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <sessionlock/lock_manager.hpp>
#include <sessionlock/sentinel.hpp>

#include "chaos/actor.hpp"

namespace sessionlock::test::chaos {

/// Lockfiles of package managers, transcripts, arrays, words and databases: beside sessions that nobody uses, as other
/// locks, PID files, gates and sentinels, at names that are almost those of unfinished locks; new, old and from the
/// future.
class Bystanders {
 public:
  /// `now`: what ages are counted from; the same for all processes.
  Bystanders(const std::filesystem::path& directory, std::time_t now);
  [[nodiscard]] std::size_t size() const { return files_.size(); }
  [[nodiscard]] const std::filesystem::path& path(std::size_t number) const { return files_[number].path; }
  /// Makes them.
  void plant() const;
  /// Complains of each that is not what it was, byte for byte and with the time of its last change, and makes it again.
  void check(World& world) const;
  /// As `check`, for one.
  void check(World& world, std::size_t number, std::string_view call) const;
  /// Whether a name is that of one.
  [[nodiscard]] static bool is_name(std::string_view name);

 private:
  struct File {
    std::filesystem::path path{};
    std::string content{};
    std::time_t modified{};
  };
  static void plant(const File& file);
  static bool is_kept(const File& file);
  std::vector<File> files_{};
};

/// Names them by mistake in every call that takes a path.
class Visitor : public Actor {
 public:
  explicit Visitor(const Stage& stage);

 protected:
  void act() override;

 private:
  /// Makes a call about one that its name suits; returns which call.
  std::string_view visit(const std::filesystem::path& path);
  std::string_view take_for_session(const std::filesystem::path& lock);
  std::string_view take_for_gate(const std::filesystem::path& path);
  std::string_view take_for_pid_file(const std::filesystem::path& path);
  std::string_view take_for_sentinel(const std::filesystem::path& path);
  void sweep_all();
  void keep_marker();
  /// Complains unless a call has refused to take the file for what it is not.
  template <class T>
  void expect_refusal(const Result<T>& result, const std::filesystem::path& path);

  Bystanders bystanders_;
  LockManager manager_;
  Sentinel marker_;
  bool has_marker_{false};
};

/// A sentinel that stands as long as a visitor lives, whatever the clock of those who ask.
[[nodiscard]] std::filesystem::path marker_path(const std::filesystem::path& directory);

}  // namespace sessionlock::test::chaos
