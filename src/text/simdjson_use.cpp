#include "text/simdjson_use.hpp"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <thread>

#include <pthread.h>
#include <simdjson.h>

namespace sessionlock {
namespace {

/// What a thread does meanwhile takes microseconds. The bound is for a thread that calls exit(3) in a signal handler,
/// and would wait for itself, and for a child of `_Fork`, which has the count of threads that only its parent has.
constexpr std::chrono::seconds k_simdjson_patience{1};

std::atomic<int> g_uses{0};

/// The code that runs on every processor of this kind.
const simdjson::implementation* g_lasting = nullptr;

void outlive_exit() {
  simdjson::get_active_implementation() = g_lasting;
  const auto deadline = std::chrono::steady_clock::now() + k_simdjson_patience;
  while (g_uses.load() > 0 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
}

/// First of all, so that simdjson's objects are older, hence destroyed later, than every static object of a program,
/// whose destructor may still want to write under a lock. The handler is younger than they are, and so runs before.
[[gnu::constructor(101)]] void make_tables_first() {
  g_lasting = new simdjson::builtin::implementation;
  [[maybe_unused]] const bool is_set_up = simdjson::validate_utf8("", 0);
  (void)std::atexit(outlive_exit);
  (void)::pthread_atfork(nullptr, nullptr, [] { g_uses.store(0); });
}

}  // namespace

SimdjsonUse::SimdjsonUse() noexcept {
  g_uses.fetch_add(1);
}

SimdjsonUse::~SimdjsonUse() {
  g_uses.fetch_sub(1);
}

bool SimdjsonUse::is_for_exit() noexcept {
  return g_lasting != nullptr &&
         static_cast<const simdjson::implementation*>(simdjson::get_active_implementation()) == g_lasting;
}

}  // namespace sessionlock
