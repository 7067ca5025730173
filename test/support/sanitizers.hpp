#pragma once

/// \file
/// What watches the tests. GCC and Clang say it differently.

#include <cstdlib>
#include <string_view>

#if !defined(__has_feature)
#define __has_feature(feature) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define SESSIONLOCK_ADDRESS_SANITIZER 1
#else
#define SESSIONLOCK_ADDRESS_SANITIZER 0
#endif

#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
#define SESSIONLOCK_THREAD_SANITIZER 1
#else
#define SESSIONLOCK_THREAD_SANITIZER 0
#endif

namespace sessionlock::test {

/// Valgrind replaces the allocator by loading a library of its own first.
inline bool is_under_valgrind() {
  const char* const preloaded = std::getenv("LD_PRELOAD");
  return preloaded != nullptr && std::string_view(preloaded).find("vgpreload") != std::string_view::npos;
}

}  // namespace sessionlock::test
