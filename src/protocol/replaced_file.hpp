#pragma once

/// \file
/// What a take-over has replaced, kept under a temporary name until the acquisition has reached its caller.
///
/// An acquisition can fail after it has taken over: the session's path leads elsewhere by then, memory or descriptors
/// run out, the disk is full. Then the replaced file itself, not a copy, gets its name back, and the next turn judges
/// it as this one did. That takes neither memory nor a descriptor, nor room on most file systems.
///
/// While it is kept its inode stays locked (flock(2)): by that a sweep knows that it is in use.

#include <atomic>
#include <string>

#include "protocol/directory.hpp"
#include "protocol/inode_guard.hpp"
#include "protocol/lock_file.hpp"

namespace sessionlock {

/// See the file comment. Thread safety: `put_back` and `discard` may race with each other; the first one decides.
class ReplacedFile {
 public:
  enum class Way {
    exchanged,  ///< The two files exchange their names.
    renamed     ///< The file has a second name, the temporary one.
  };
  /// `kept_name`: the temporary name, in the lock's directory. Nothing is kept yet.
  ReplacedFile(Place lock, std::string kept_name, Way way)
      : lock_(std::move(lock)), kept_name_(std::move(kept_name)), way_(way) {}
  /// Puts back what is still kept: the acquisition ended before there was a hold. Waits a moment if the successor is
  /// locked by another process.
  ~ReplacedFile();
  ReplacedFile(const ReplacedFile&) = delete;
  ReplacedFile& operator=(const ReplacedFile&) = delete;

  /// From now on the file is kept: it has the temporary name, the successor has its own, and the file's inode is
  /// locked. Lifetime: the successor's descriptor stays open for as long as the file is kept.
  void keep(PinnedInode&& replaced, int successor_fd, const FileIdentity& successor) noexcept;
  [[nodiscard]] bool is_kept() const noexcept { return is_kept_.load(); }
  /// Gives the file its name back, and removes the successor. Precondition: INVARIANT 1 for the successor.
  /// `other`: the path names another process's lock, which stays. `failed`: the successor has its name still, and the
  /// file is kept if it is still there, so that the step can be repeated. Async-signal-safe.
  [[nodiscard]] Step put_back() noexcept;
  /// The acquisition has reached its caller, or cannot be undone any more: removes the file. Does nothing where none is
  /// kept.
  void discard() noexcept;

 private:
  [[nodiscard]] int directory() const noexcept { return lock_.directory->fd.get(); }
  [[nodiscard]] PlaceView kept() const noexcept {
    return {directory(), kept_name_.c_str(), lock_.directory->traits->local};
  }
  [[nodiscard]] Step exchange_back() const noexcept;
  [[nodiscard]] Step rename_back() const noexcept;
  void unlock() const noexcept;

  const Place lock_;
  const std::string kept_name_;
  const Way way_;
  std::atomic<bool> is_kept_{false};
  PinnedInode replaced_{};
  int successor_fd_{-1};
  FileIdentity successor_{};
};

}  // namespace sessionlock
