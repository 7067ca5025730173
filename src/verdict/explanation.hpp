#pragma once

/// \file
/// The words for a lock's owner that error messages, explanations and the command share.

#include <optional>
#include <string>
#include <string_view>

#include <sessionlock/lock_record.hpp>
#include <sessionlock/staleness.hpp>

namespace sessionlock {

/// The pid that a lock names, in its record or by digits in its place; none if it names none.
[[nodiscard]] std::optional<pid_t> named_pid(const Inspection& inspection);

/// The named owner in two words: "pid 41237", or "no usable pid".
[[nodiscard]] std::string owner_words(const Inspection& inspection);

/// "a program it gave the lock to runs on", where the owner has ended and such a program holds the lock; otherwise
/// empty. Lifetime: static storage.
[[nodiscard]] std::string_view inherited_words(const Inspection& inspection);

/// Who could read a lock that may not be read, and what would make later ones readable.
[[nodiscard]] std::string denied_words(const FileAccess& file);
/// Why a lock cannot be read, and what would help if that is known.
[[nodiscard]] std::string unreadable_words(const Inspection& inspection);

/// What to do where there is something else than a lock at a lock path. Lifetime: static storage.
[[nodiscard]] std::string_view not_a_lock_words();
/// Why an acquire would fail, as its error would say it; empty where nothing is known to prevent one.
[[nodiscard]] std::string obstacle_words(const Inspection& inspection);

}  // namespace sessionlock
