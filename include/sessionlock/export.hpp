#pragma once

/// Marks a name that the shared library exports; everything else is hidden.
#if defined(__GNUC__) || defined(__clang__)
#define SESSIONLOCK_API __attribute__((visibility("default")))
#else
#define SESSIONLOCK_API
#endif

// With `_GLIBCXX_DEBUG` the containers of libstdc++ have another layout, under the same names as far as a linker sees.
// The package's compiler flags say how the library was built.
#if defined(_GLIBCXX_DEBUG) && !defined(SESSIONLOCK_WITH_GLIBCXX_DEBUG)
#error "this program is compiled with _GLIBCXX_DEBUG, but sessionlock was built without: build both alike"
#elif !defined(_GLIBCXX_DEBUG) && defined(SESSIONLOCK_WITH_GLIBCXX_DEBUG)
#error "sessionlock was built with _GLIBCXX_DEBUG, but this program is compiled without: build both alike"
#endif
