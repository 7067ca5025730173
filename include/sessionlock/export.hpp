#pragma once

/// Marks a name that the shared library exports; everything else is hidden.
#if defined(__GNUC__) || defined(__clang__)
#define SESSIONLOCK_API __attribute__((visibility("default")))
#else
#define SESSIONLOCK_API
#endif
