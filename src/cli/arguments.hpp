#pragma once

/// \file
/// Arguments that several commands have in common.

#include <optional>
#include <string>

#include <sys/types.h>

#include <sessionlock/lock_manager.hpp>

#include "cli/parser.hpp"

namespace sessionlock::cli {

/// Which session, and how its lock is found.
struct SessionArguments {
  std::string session{};
  std::string lock_directory{};
  bool allow_hard_links{false};
  std::optional<mode_t> mode{};

  [[nodiscard]] ManagerOptions manager_options() const;
};
/// Why this cannot be meant as a session; empty if it can.
[[nodiscard]] std::string check_session_name(const std::string& session);
/// `SESSION`.
void add_session(OptionTable& table, SessionArguments& arguments);
/// `--lock-directory` and `--allow-hard-links`.
void add_session_options(OptionTable& table, SessionArguments& arguments);

/// `--mode`, for commands that make locks.
void add_mode(OptionTable& table, std::optional<mode_t>& mode, std::string help);

/// How to acquire: the defaults are those of the environment (`AcquireOptions::from_environment`).
struct AcquireArguments {
  AcquireOptions options{AcquireOptions::from_environment()};
  bool no_wait{false};
  bool verbose{false};

  /// As the library wants it.
  [[nodiscard]] AcquireOptions acquire_options(const SessionArguments& session) const;
};
/// `--timeout`.
void add_timeout(OptionTable& table, AcquireArguments& arguments);
/// `--timeout`, `--no-wait`, `--label` and `--verbose`.
void add_acquire_options(OptionTable& table, AcquireArguments& arguments);

/// Value of an environment variable; empty if it is not set.
[[nodiscard]] std::string environment(const char* name);

}  // namespace sessionlock::cli
