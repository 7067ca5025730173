#pragma once

/// \file
/// The register of the descriptors that this library opened, and what a fork does with them. For the files of this
/// room; the others see `Fd` and `process_generation` (system.hpp).

#include "system/system.hpp"

namespace sessionlock::sys {

/// While it lives no fork begins (fork(2), not `_Fork` or clone) for a while, which is long where the file system
/// answers: between opening a descriptor and registering it a child would keep a lock that it cannot know of, and so
/// between taking it off the register and closing it. Not a mutex, because the child would inherit it locked. May be
/// nested. Blocking: while a fork is under way.
class Section {
 public:
  Section() noexcept;
  ~Section();
  Section(const Section&) = delete;
  Section& operator=(const Section&) = delete;
};

/// Registers a new descriptor, out of the way of standard input, output and error: a program that starts with one of
/// those closed would otherwise write its messages into the lock file. Returns it, or -1 with errno set.
/// Call it in a `Section`.
[[nodiscard]] int adopt(int fd) noexcept;

/// Says what a new descriptor is open on, for a file that nobody looks at otherwise.
void expect_as_it_is(Fd& fd) noexcept;
/// Marks a new descriptor of what has no name, and says what it is open on. The kernel gives all eventfds, inotify
/// instances and (before Linux 6.9) pidfds one inode; the mark, a flag that means nothing to them, tells ours from the
/// program's. (Another copy of this library in the process has the same mark.)
void mark_nameless(Fd& fd) noexcept;

struct OpenedAccess {
  /// The owner of a descriptor that `adopt` registered.
  static Fd adopt(int number) noexcept;
};

}  // namespace sessionlock::sys
