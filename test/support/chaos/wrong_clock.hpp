#pragma once

/// \file
/// A wall clock that is wrong, for one process: `clock_gettime` is replaced in programs that link this, and answers for
/// both copies of the library and for libstdc++. Times of files are the kernel's, and so are right.

#include <chrono>

namespace sessionlock::test::chaos {

/// From now on this process's wall clock is ahead by that much, or behind. Thread safety: safe.
void set_clock_error(std::chrono::seconds error);
/// Whether the library sees the error that was set.
[[nodiscard]] bool clock_is_wrong();

}  // namespace sessionlock::test::chaos
