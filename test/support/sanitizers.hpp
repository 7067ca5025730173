#pragma once

/// \file
/// What the tests were built with. GCC and Clang say it differently.

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
