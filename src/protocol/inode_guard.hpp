#pragma once

/// \file
/// The `flock` of an inode, taken without waiting and compared with the name that is about to be acted on. Nothing here
/// throws or allocates: a signal handler may call all of it.

#include <filesystem>
#include <utility>

#include <sessionlock/error.hpp>

#include "protocol/directory.hpp"
#include "system/file_status.hpp"
#include "system/system.hpp"

namespace sessionlock {

/// Answer of one step.
struct Step {
  enum class Answer {
    done,
    busy,   ///< Another open file description has the inode's `flock`.
    other,  ///< The path names another inode, or nothing.
    failed  ///< `call` failed with `error`.
  };
  Answer answer{Answer::done};
  sys::Call call{};
  int error{};
};

/// Whether a `flock` without waiting failed because another open file description has it: EWOULDBLOCK, and on an SMB
/// client EACCES (fs/cifs/smb2maperror.c, STATUS_LOCK_NOT_GRANTED), which on a local file system is a security policy's
/// refusal. Async-signal-safe.
[[nodiscard]] bool is_locked_by_another(int error, bool is_local) noexcept;

/// Whether the path names this inode: `done` or `other`. Async-signal-safe.
[[nodiscard]] Step names_inode(const PlaceView& place, const FileIdentity& file) noexcept;

/// Tries to lock an inode and checks that its path still names it: once that is done, no other process can remove the
/// file until `leave_guard`. Async-signal-safe.
[[nodiscard]] Step try_enter_guard(const PlaceView& place, int fd, const FileIdentity& file) noexcept;
/// Async-signal-safe.
Step leave_guard(int fd) noexcept;

/// The `flock` of an inode, for a scope. Async-signal-safe.
/// Lifetime: refers to the descriptor; closing that ends the lock as well, unless a child has inherited it.
class InodeGuard {
 public:
  /// Tries to lock the inode, without a look at any name.
  [[nodiscard]] static InodeGuard lock(const PlaceView& place, int fd) noexcept;
  /// Tries to lock the inode and checks that the path still names it.
  [[nodiscard]] static InodeGuard enter(const PlaceView& place, int fd, const FileIdentity& file) noexcept;
  /// Takes charge of a lock that the descriptor has already.
  [[nodiscard]] static InodeGuard of_locked(int fd) noexcept { return {fd, Step{}}; }

  ~InodeGuard() {
    if (fd_ >= 0) {
      (void)leave_guard(fd_);
    }
  }
  InodeGuard(InodeGuard&& other) noexcept : step_(other.step_), fd_(std::exchange(other.fd_, -1)) {}
  InodeGuard& operator=(InodeGuard&&) = delete;

  /// How the attempt ended. The inode is locked if this is `done`.
  [[nodiscard]] const Step& step() const& noexcept { return step_; }
  [[nodiscard]] bool is_entered() const& noexcept { return step_.answer == Step::Answer::done; }
  /// A guard without a name would end before what it is to guard.
  [[nodiscard]] const Step& step() const&& = delete;
  [[nodiscard]] bool is_entered() const&& = delete;
  /// Leaves the inode locked: the caller unlocks it with `leave_guard`, or closes the descriptor.
  void keep() noexcept { fd_ = -1; }

 private:
  InodeGuard(int fd, const Step& step) noexcept : step_(step), fd_(step.answer == Step::Answer::done ? fd : -1) {}

  Step step_;
  int fd_;
};

/// The failed step as an error about a path.
[[nodiscard]] Error to_error(const Step& step, const std::filesystem::path& path);

}  // namespace sessionlock
