#pragma once

/// \file
/// Processes that exit from one thread while another of their threads writes.

#include <cstdint>

namespace sessionlock::test {

struct ExitFigures {
  /// Exits that found no guarded write under way and released the lock.
  std::uint64_t released{};
  /// Exits that left it to the kernel.
  std::uint64_t left{};
  /// Successors that met a byte of their predecessor's after they had begun to write. Is to be zero.
  std::uint64_t overlaps{};
  /// Successors that did not get the lock. Is to be zero.
  std::uint64_t failures{};
  /// Nobody got in, and some exits met a guarded write; complaints are doctest failures.
  void check() const;
};

/// In each round a process writes in one thread, by guarded writes one after the other, and calls exit(3) in another;
/// its exit handlers go on for a while after the library's. A successor waits for the lock and writes as soon as it has
/// it.
[[nodiscard]] ExitFigures exit_while_writing(int rounds);

/// In each round a process calls exit(3) while five of its threads acquire, write under and inspect locks; its exit
/// goes on for a while after all static objects have been destroyed. Complaints are doctest failures.
void exit_while_busy(int rounds);

/// Has this process's exit call a function when everything else has been done: also when the static objects of the
/// libraries have been destroyed.
void run_at_the_very_end(void (*function)()) noexcept;

}  // namespace sessionlock::test
