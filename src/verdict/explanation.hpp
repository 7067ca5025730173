#pragma once

/// \file
/// The words for a lock's owner that error messages, explanations and the command share.

#include <string>
#include <string_view>

#include <sessionlock/lock_record.hpp>
#include <sessionlock/staleness.hpp>

namespace sessionlock {

/// The recorded owner in two words: "pid 41237", or "no usable pid".
[[nodiscard]] std::string owner_words(const LockRecord& record);

/// "a program it gave the lock to runs on", where the owner has ended and such a program holds the lock; otherwise
/// empty. Lifetime: static storage.
[[nodiscard]] std::string_view inherited_words(const Inspection& inspection);

}  // namespace sessionlock
