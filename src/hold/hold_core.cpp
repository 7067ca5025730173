#include "hold/hold_core.hpp"

#include <cerrno>

#include <sys/stat.h>

#include "system/file_status.hpp"

namespace sessionlock {

Step HoldCore::look_at_descriptor() const noexcept {
  if (!descriptor->is_registered()) {
    return {Step::Answer::other};
  }
  struct stat status {};
  const auto found = sys::fstat(fd(), status);
  if (found.ok()) {
    return {identity_of(status) == file ? Step::Answer::done : Step::Answer::other};
  }
  // A closed number is not ours any more; a disk or server that does not answer (EIO, ESTALE) proves nothing, and to
  // take it for the end would leave the lock behind for as long as this process lives.
  // ENOENT is how a file system answers that knows paths, not files (FUSE's): there is none any more.
  return found.error == EBADF || found.error == ENOENT ? Step{Step::Answer::other}
                                                       : Step{Step::Answer::failed, sys::Call::fstat, found.error};
}

Step HoldCore::try_enter() const noexcept {
  const Step looked = look_at_descriptor();
  return looked.answer == Step::Answer::done ? try_enter_guard(place, fd(), file) : looked;
}

Step HoldCore::try_unlink() const noexcept {
  if (const Step entered = try_enter(); entered.answer != Step::Answer::done) {
    return entered;
  }
  InodeGuard guard = InodeGuard::of_locked(fd());
  if (replaced != nullptr && replaced->is_kept()) {
    const Step back = replaced->put_back();
    if (back.answer != Step::Answer::failed) {
      guard.keep();
      return back;
    }
    if (replaced->is_kept()) {
      return back;
    }
  }
  const auto unlinked = sys::unlinkat(place.directory, place.name);
  if (unlinked.ok() || unlinked.error == ENOENT) {
    guard.keep();  // the `flock` is on a file that nobody can find any more, and goes with the descriptor
    return {};
  }
  return {Step::Answer::failed, sys::Call::unlinkat, unlinked.error};
}

Ending HoldCore::try_end() noexcept {
  if (generation != sys::settled_generation()) {
    return Ending::refused;
  }
  HoldPhase expected = HoldPhase::idle;
  if (!phase.compare_exchange_strong(expected, HoldPhase::ending)) {
    return expected == HoldPhase::ended ? Ending::was_ended : Ending::refused;
  }
  const Step::Answer answer = try_unlink().answer;
  const bool has_ended = answer == Step::Answer::done || answer == Step::Answer::other;
  phase.store(has_ended ? HoldPhase::ended : HoldPhase::idle);
  return !has_ended ? Ending::refused : answer == Step::Answer::done ? Ending::released : Ending::lost;
}

}  // namespace sessionlock
