#pragma once

/// \file
/// Lock files as tests need them: of this process, of others, of long ago, hostile ones; and a look at what is left.

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <sys/types.h>

#include <sessionlock/lock_manager.hpp>
#include <sessionlock/lock_record.hpp>

#include "process.hpp"
#include "protocol/session_location.hpp"
#include "script.hpp"
#include "system/system.hpp"

namespace sessionlock::test {

/// A script whose own calls of the library go through unasked.
[[nodiscard]] Answer outermost(Answer answer);

/// A moment that is told by the calls before it; each child begins anew.
using Moment = std::function<bool(const sys::CallInfo&)>;

/// Does something once, before the first call that fits.
[[nodiscard]] Answer once_before(Moment moment, std::function<void()> act);

/// A session that nobody has yet, in a directory of its own.
struct Session {
  TemporaryDirectory directory{};
  std::filesystem::path path = directory / "s.jsonl";
  std::filesystem::path lock = directory / "s.jsonl.lock";
};

/// The lock that a call is to have got; throws what it got instead.
[[nodiscard]] SessionLock held(Result<SessionLock> lock);

/// What went wrong; no code where nothing did.
template <class T>
[[nodiscard]] std::error_code code_of(const Result<T>& result) {
  return result ? std::error_code() : result.error().code;
}

/// A name in a directory that is there.
[[nodiscard]] Place place_in(const std::filesystem::path& directory, const std::string& name);

/// Where a session and its lock are; throws if that cannot be told.
[[nodiscard]] SessionLocation located(const std::filesystem::path& session, const LocateOptions& options = {});

/// The names in a directory, sorted.
[[nodiscard]] std::vector<std::string> names_in(const std::filesystem::path& directory);

/// A `createdAt` that long ago; negative durations lie in the future.
[[nodiscard]] std::string created_at_ago(std::chrono::milliseconds age);

/// A record of this process as it would write one now, but for the witness.
[[nodiscard]] LockRecord own_record();

/// A record as other programs write it: `{pid, createdAt, starttime}`; `starttime` is JSON text as it is, left out
/// where empty.
[[nodiscard]] std::string foreign_record(pid_t pid, std::string_view starttime = {},
                                         std::chrono::milliseconds age = std::chrono::milliseconds{0});

/// Creates a lock file as other programs do: `open(O_EXCL)`, then `write`. Throws if it exists.
void plant(const std::filesystem::path& lock, std::string_view text);

/// What may lie at a lock's path and is no regular file.
struct StrangeNode {
  /// What an error says it is.
  std::string_view words;
  void (*make)(const std::filesystem::path& path);
};
/// One of each kind; the symbolic link leads to a lock file beside it, whose owner is dead.
[[nodiscard]] const std::vector<StrangeNode>& strange_nodes();

/// Lets a file look as if it was last written that long ago.
void make_older(const std::filesystem::path& file, std::chrono::seconds age);

/// A file's inode number, 0 if there is none.
[[nodiscard]] std::uint64_t inode_of(const std::filesystem::path& file);

/// Whether nobody has the `flock` of a file.
[[nodiscard]] bool is_unguarded(const std::filesystem::path& file);

/// The working directory for the length of a scope.
class WorkingDirectory {
 public:
  explicit WorkingDirectory(const std::filesystem::path& path) : before_(std::filesystem::current_path()) {
    std::filesystem::current_path(path);
  }
  ~WorkingDirectory() { std::filesystem::current_path(before_); }
  WorkingDirectory(const WorkingDirectory&) = delete;
  WorkingDirectory& operator=(const WorkingDirectory&) = delete;

 private:
  std::filesystem::path before_;
};

/// Lets the library try again what it could not release, as it does whenever a lock is acquired or released.
void retry_releases();

/// A pid that no process has: of a child that has ended.
[[nodiscard]] pid_t dead_pid();

/// One try.
[[nodiscard]] Result<SessionLock> try_lock(const std::filesystem::path& session, const StalePolicy& policy = {});

/// A child that holds a session's lock. It lets go when it hears "release" or nothing more, and then says "released".
/// It is dead, or stopped, or whatever else is done to it, with the lock in its hands.
[[nodiscard]] ChildProcess holder_of(const std::filesystem::path& session, const AcquireOptions& options = {});

/// When a process started, as JSON; throws if that cannot be told.
[[nodiscard]] std::string start_of(pid_t pid);

}  // namespace sessionlock::test
