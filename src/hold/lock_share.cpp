#include "hold/lock_share.hpp"

#include "hold/lock_queue.hpp"
#include "verdict/failure.hpp"

namespace sessionlock {

Result<detail::GuardScope> LockShare::enter_guard() const {
  if (released.load()) {
    return owns_nothing(this);
  }
  return hold->enter_guard();
}

Result<void> LockShare::release() {
  if (released.load()) {
    return {};
  }
  auto dropped = hold->drop_share();
  if (dropped || dropped.error().code == Errc::lost) {
    released = true;
  }
  return dropped;
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
