#pragma once

/// \file
/// What every fuzz target is made of.
///
/// A target is one file of `test/fuzz/` that defines `LLVMFuzzerTestOneInput` and nothing that keeps anything from one
/// input to the next. It is linked twice: with `replay.cpp`, by any compiler, which runs it on the inputs that are kept
/// in `test/fuzz/corpus/TARGET/` and `test/fuzz/findings/TARGET/` whenever the tests run; and with a fuzzer, which
/// looks for inputs that nobody thought of.
///
/// libFuzzer: `scripts/fuzz SECONDS [TARGET]`, which builds with `-Dfuzzers=true` (clang only).
///
/// AFL++ drives the same function. Its compiler stands in for clang, and its `-fsanitize=fuzzer` brings a `main`:
///
///     export CC=afl-clang-fast CXX=afl-clang-fast++
///     meson setup build-afl -Dfuzzers=true && ninja -C build-afl test/fuzz/fuzz_lock_record
///     afl-fuzz -i test/fuzz/corpus/lock_record -o build-afl/findings -- build-afl/test/fuzz/fuzz_lock_record
///
/// What either finds goes, as small as it can be made (`-minimize_crash=1`, `afl-tmin`), into `findings/TARGET/` under
/// a name that says what it is, together with the repair and a test in `test/unit/` that says the same in words.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

/// Ends the run, in whichever way the fuzzer notices, if the condition is false. Not `assert`: it must not depend on
/// how the target was compiled.
#define FUZZ_CHECK(...)                                                                         \
  do {                                                                                          \
    if (!(__VA_ARGS__)) {                                                                       \
      (void)std::fprintf(stderr, "%s:%d: is not true: %s\n", __FILE__, __LINE__, #__VA_ARGS__); \
      std::abort();                                                                             \
    }                                                                                           \
  } while (false)

namespace sessionlock::fuzz {

/// Wide enough for sums and products of 64-bit numbers to be right.
__extension__ using Wide = __int128;

[[nodiscard]] inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

/// Takes an input apart from its front. What is not there reads as zero.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : rest_(text_of(data, size)) {}

  [[nodiscard]] std::uint8_t byte() {
    const std::uint8_t value = rest_.empty() ? std::uint8_t{0} : static_cast<std::uint8_t>(rest_.front());
    rest_.remove_prefix(rest_.empty() ? 0 : 1);
    return value;
  }
  [[nodiscard]] bool flag() { return (byte() & 1U) != 0; }
  [[nodiscard]] std::uint64_t number(int bytes) {
    std::uint64_t value = 0;
    for (int i = 0; i < bytes; ++i) {
      value = value << 8U | byte();
    }
    return value;
  }
  /// All that is left.
  [[nodiscard]] std::string_view rest() const { return rest_; }

 private:
  std::string_view rest_;
};

}  // namespace sessionlock::fuzz
