#include "protocol/replaced_file.hpp"

#include <cerrno>
#include <chrono>

#include "system/deadline.hpp"
#include "system/system.hpp"

namespace sessionlock {
namespace {

/// A process that judges the successor has it locked for a moment.
constexpr std::chrono::milliseconds k_patience{250};

}  // namespace

ReplacedFile::~ReplacedFile() {
  // A forked child has the object too, but nothing of what it stands for.
  if (!is_kept() || !replaced_.fd.is_registered()) {
    return;
  }
  const auto enter = [this] { return InodeGuard::enter(lock_.view(), successor_fd_, successor_); };
  const bool is_done = retry_until(std::chrono::steady_clock::now() + k_patience, [&] {
    const InodeGuard guard = enter();
    return guard.is_entered() ? put_back().answer != Step::Answer::failed : guard.step().answer == Step::Answer::other;
  });
  if (!is_done) {
    // Nobody will try again: better a death that is not reported than a session that is locked without an owner.
    if (const InodeGuard guard = enter(); guard.is_entered()) {
      (void)sys::unlinkat(directory(), lock_.name.c_str());
    }
  }
  discard();
}

void ReplacedFile::keep(PinnedInode&& replaced, int successor_fd, const FileIdentity& successor) noexcept {
  replaced_ = std::move(replaced);
  successor_fd_ = successor_fd;
  successor_ = successor;
  is_kept_.store(true);
}

Step ReplacedFile::put_back() noexcept {
  if (!is_kept_.exchange(false)) {
    return {Step::Answer::failed, sys::Call::renameat, ENOENT};
  }
  const Step done = way_ == Way::exchanged ? exchange_back() : rename_back();
  if (done.answer == Step::Answer::failed && done.error != ENOENT) {
    is_kept_.store(true);
    return done;
  }
  if (done.answer != Step::Answer::done || way_ == Way::exchanged) {
    (void)sys::unlinkat(directory(), kept_name_.c_str());
  }
  unlock();
  return done;
}

Step ReplacedFile::exchange_back() const noexcept {
  const auto exchanged = sys::exchange_names(directory(), kept_name_.c_str(), lock_.name.c_str());
  if (!exchanged.ok()) {
    return exchanged.error == ENOENT ? Step{Step::Answer::failed, sys::Call::renameat2, ENOENT} : rename_back();
  }
  // 1. The successor is compared with the path. 2. A program that deletes locks without the protocol deletes it, and
  // another process publishes. 3. The exchange takes that process's lock from the path. 4. It gets its name back here.
  const bool took_another = names_inode(kept(), successor_).answer == Step::Answer::other;
  if (took_another && sys::exchange_names(directory(), kept_name_.c_str(), lock_.name.c_str()).ok()) {
    return {Step::Answer::other};
  }
  return {};
}

Step ReplacedFile::rename_back() const noexcept {
  const auto renamed = sys::rename_over(directory(), kept_name_.c_str(), lock_.name.c_str());
  return renamed.ok() ? Step{} : Step{Step::Answer::failed, sys::Call::renameat, renamed.error};
}

void ReplacedFile::discard() noexcept {
  if (is_kept_.exchange(false)) {
    (void)sys::unlinkat(directory(), kept_name_.c_str());
    unlock();
    replaced_.fd.reset();
  }
}

void ReplacedFile::unlock() const noexcept {
  if (replaced_.fd.is_usable()) {
    (void)leave_guard(replaced_.fd.get());  // a child that inherited the descriptor would keep the lock
  }
}

}  // namespace sessionlock
