#pragma once

/// \file
/// simdjson until the process has ended.

namespace sessionlock {

/// While it lives, its thread may do what makes simdjson look for the code that it has chosen for this processor:
/// validate a text, or set up a parser (a parser that is set up needs none of this).
///
/// simdjson reaches that code through static objects, which exit(3) destroys while other threads go on. So an exit
/// first gives simdjson an object that is never destroyed, and then waits until no thread is left that may have found
/// an older one, for `k_simdjson_patience` at most.
///
/// Thread safety: safe. May be nested.
class SimdjsonUse {
 public:
  SimdjsonUse() noexcept;
  ~SimdjsonUse();
  SimdjsonUse(const SimdjsonUse&) = delete;
  SimdjsonUse& operator=(const SimdjsonUse&) = delete;

  /// Whether an exit has given simdjson the object that stays.
  [[nodiscard]] static bool is_for_exit() noexcept;
};

}  // namespace sessionlock
