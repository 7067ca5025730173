#pragma once

/// \file
/// Arguments that several commands have in common.

#include <chrono>
#include <string>

#include <sessionlock/lock_manager.hpp>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace sessionlock::cli {

/// An option whose value is a duration as `parse_duration` reads it. `target` keeps its value unless it is given.
CLI::Option* add_duration(CLI::App& command, const std::string& name, std::chrono::milliseconds& target,
                          const std::string& help);

/// Which session, and how its lock is found.
struct SessionArguments {
  std::string session{};
  std::string lock_directory{};
  bool allow_hard_links{false};

  [[nodiscard]] ManagerOptions manager_options() const;
};
/// Why this cannot be meant as a session; empty if it can. A parser's check.
[[nodiscard]] std::string check_session_name(const std::string& session);
/// `SESSION`.
void add_session(CLI::App& command, SessionArguments& arguments);
/// `--lock-directory` and `--allow-hard-links`.
void add_session_options(CLI::App& command, SessionArguments& arguments);

/// How to acquire: the defaults are those of the environment (`AcquireOptions::from_environment`).
struct AcquireArguments {
  AcquireOptions options{AcquireOptions::from_environment()};
  bool no_wait{false};
  bool verbose{false};

  /// As the library wants it.
  [[nodiscard]] AcquireOptions acquire_options(const SessionArguments& session) const;
};
/// `--timeout`.
CLI::Option* add_timeout(CLI::App& command, AcquireArguments& arguments);
/// `--timeout`, `--no-wait`, `--label` and `--verbose`.
void add_acquire_options(CLI::App& command, AcquireArguments& arguments);

/// Value of an environment variable; empty if it is not set.
[[nodiscard]] std::string environment(const char* name);

}  // namespace sessionlock::cli
