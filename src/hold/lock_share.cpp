#include "hold/lock_share.hpp"

#include "hold/events.hpp"
#include "hold/lock_queue.hpp"
#include "verdict/failure.hpp"
#include "waiting/process_counters.hpp"

namespace sessionlock {

Result<detail::GuardScope> LockShare::enter_guard() const {
  if (released.load()) {
    return owns_nothing(this);
  }
  return hold->enter_guard();
}

Result<void> LockShare::release(std::chrono::milliseconds wait) {
  if (released.load()) {
    return {};
  }
  auto dropped = hold->drop_share(wait);
  if (dropped || dropped.error().code == Errc::lost) {
    released = true;
  }
  return dropped;
}

void abandon(LockShare& share, const std::optional<Error>& why) noexcept {
  Hold& hold = *share.hold;
  share.released = true;
  const bool is_last = hold.abandon_share();
  try {
    ++this_process_tally().release_failures;
    if (is_last) {
      keep_for_retry(share.hold);
    }
    notify(*hold.params().options,
           {EventKind::release_failed, hold.session_path(), hold.lock_path(), hold.held_for(), std::nullopt, why});
  } catch (...) {  // no memory to keep it either: what cannot go now goes at exit, or with this process
    if (is_last) {
      (void)hold.try_release();
    }
  }
}

void give_up_share(const std::shared_ptr<Hold>& hold) noexcept {
  if (!hold->abandon_share() || hold->try_release()) {
    return;
  }
  try {
    keep_for_retry(hold);
  } catch (...) {  // no memory to keep it: it goes at exit, or with this process
  }
}

std::shared_ptr<LockShare> make_share(const std::shared_ptr<Hold>& hold) {
  try {
    auto share = std::make_shared<LockShare>();
    share->hold = hold;
    return share;
  } catch (...) {  // no memory
    give_up_share(hold);
    throw;
  }
}

tl::unexpected<Error> owns_nothing(const LockShare* share) {
  return failure(Errc::lost, "use lock", share != nullptr ? share->hold->lock_path() : "",
                 "this handle has released its lock");
}

}  // namespace sessionlock
