#include "hold/lock_share.hpp"

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

std::shared_ptr<LockShare> make_share(Hold& hold) {
  try {
    return std::make_shared<LockShare>();
  } catch (...) {  // no memory
    if (hold.abandon_share()) {
      (void)hold.try_release();
    }
    throw;
  }
}

tl::unexpected<Error> owns_nothing(const LockShare* share) {
  return failure(Errc::lost, "use lock", share != nullptr ? share->hold->lock_path() : "",
                 "this handle has released its lock");
}

}  // namespace sessionlock
