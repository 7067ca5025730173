#pragma once

/// \file
/// Lock files made and pinned by the protocol itself, without a manager; and file systems that are pretended.

#include <filesystem>
#include <functional>
#include <vector>

#include <sys/types.h>

#include "lock_tools.hpp"
#include "protocol/publication.hpp"

namespace sessionlock::test {

/// Runs a body in a child: what a file system can do is remembered for a process, so what pretends another one runs in
/// a process of its own.
void in_fresh_process(const std::function<void()>& body);

[[nodiscard]] inline bool is(const sys::CallInfo& info, sys::Call call) {
  return info.call == call;
}

/// An answer to calls: there are no nameless files; nor hard links.
[[nodiscard]] int no_nameless_files(const sys::CallInfo& info);
[[nodiscard]] int no_hard_links(const sys::CallInfo& info);

/// A pretended file system, and how a lock gets its name there.
struct Pretence {
  const char* name;
  Answer answer;
  Naming naming;
};
[[nodiscard]] std::vector<Pretence> pretences();

[[nodiscard]] Result<PublishAttempt> publish_own(const Place& place);

struct PublishedLock : PublishedFile {
  LockRecord record;
};
/// Throws if the lock could not be published.
[[nodiscard]] PublishedLock published(const Place& place, const LockPermissions& permissions = {});

/// Throws if there is none.
[[nodiscard]] PinnedLock pinned_at(const Place& place);

/// Another open file description of the same file.
class SecondDescription {
 public:
  explicit SecondDescription(const std::filesystem::path& path);
  ~SecondDescription();
  SecondDescription(const SecondDescription&) = delete;
  SecondDescription& operator=(const SecondDescription&) = delete;
  [[nodiscard]] bool can_flock() const;
  void flock() const;
  [[nodiscard]] int fd() const { return fd_; }

 private:
  int fd_;
};

}  // namespace sessionlock::test
