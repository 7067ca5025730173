#include "watch_hub.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include <sys/inotify.h>

#include "per_process.hpp"
#include "process_probe.hpp"

namespace sessionlock {
namespace {

/// An unlink with descriptors open changes the link count (IN_ATTRIB); without them the inode goes (IN_DELETE_SELF).
constexpr std::uint32_t k_events = IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF;

struct Hub {
  std::mutex mutex;
  sys::Fd inotify;
  std::unordered_map<int, std::vector<Sleeper*>> watchers;
  std::vector<Sleeper*> sleeping;
  Sleeper* leader{nullptr};
};
PerProcess<Hub> g_hub;

void tell(const std::vector<Sleeper*>& sleepers) {
  for (Sleeper* sleeper : sleepers) {
    sleeper->changed = true;
    sleeper->bell.ring();
  }
}

/// Takes all events and tells whom they concern. The caller holds the hub's mutex.
void dispatch_events(Hub& hub) {
  alignas(inotify_event) std::array<char, 4096> buffer;  // NOLINT(*-member-init): the kernel fills it
  while (true) {
    const auto got = sys::read(hub.inotify.get(), buffer.data(), buffer.size());
    if (!got.ok() || got.value <= 0) {
      return;
    }
    for (std::size_t at = 0; at + sizeof(inotify_event) <= static_cast<std::size_t>(got.value);) {
      inotify_event event{};
      std::memcpy(&event, buffer.data() + at, sizeof event);
      at += sizeof event + event.len;
      if ((event.mask & IN_Q_OVERFLOW) != 0) {
        for (const auto& [watch, sleepers] : hub.watchers) {
          tell(sleepers);
        }
      } else if (const auto found = hub.watchers.find(event.wd); found != hub.watchers.end()) {
        tell(found->second);
      }
    }
  }
}

/// Gives the lead to another sleeper. The caller holds the hub's mutex.
void pass_lead(Hub& hub) {
  const auto next = std::find_if(hub.sleeping.begin(), hub.sleeping.end(),
                                 [](const Sleeper* sleeper) { return sleeper->bell.is_open(); });
  hub.leader = next == hub.sleeping.end() ? nullptr : *next;
  if (hub.leader != nullptr) {
    hub.leader->bell.ring();
  }
}

struct Ready {
  bool bell;
  bool owner;
  bool events;
  bool any() const { return bell || owner || events; }
};

Ready poll_once(const Hub& hub, const Sleeper& sleeper, bool leads, std::chrono::steady_clock::time_point until) {
  // A negative descriptor is passed over (poll(2)).
  std::array<::pollfd, 3> descriptors{
      {{sleeper.bell.fd(), POLLIN, 0}, {sleeper.owner.get(), POLLIN, 0}, {leads ? hub.inotify.get() : -1, POLLIN, 0}}};
  const auto ready = sys::poll(descriptors.data(), descriptors.size(), until);
  if (!ready.ok()) {
    return {};
  }
  return {descriptors[0].revents != 0, descriptors[1].revents != 0, descriptors[2].revents != 0};
}

}  // namespace

std::error_code Bell::open() {
  auto opened = sys::eventfd();
  event_ = std::move(opened.fd);
  return opened.ok() ? std::error_code{} : opened.code();
}

void Bell::ring() const noexcept {
  const std::uint64_t one = 1;
  if (event_) {
    (void)sys::write(event_.get(), &one, sizeof one);
  }
}

void Bell::silence() const noexcept {
  std::uint64_t count = 0;
  (void)sys::read(event_.get(), &count, sizeof count);
}

std::error_code watch_inode(Sleeper& sleeper, int fd) {
  unwatch_inode(sleeper);
  Hub& hub = g_hub.get();
  const std::lock_guard lock(hub.mutex);
  if (!hub.inotify) {
    auto opened = sys::inotify_init();
    if (!opened.ok()) {
      return opened.code();
    }
    hub.inotify = std::move(opened.fd);
  }
  const auto watch = sys::inotify_add_watch(hub.inotify.get(), descriptor_link(fd).data(), k_events);
  if (!watch.ok()) {
    return watch.code();
  }
  sleeper.watch = static_cast<int>(watch.value);
  sleeper.changed = false;
  hub.watchers[sleeper.watch].push_back(&sleeper);
  return {};
}

void unwatch_inode(Sleeper& sleeper) noexcept {
  if (sleeper.watch < 0) {
    return;
  }
  Hub& hub = g_hub.get();
  const std::lock_guard lock(hub.mutex);
  if (const auto found = hub.watchers.find(sleeper.watch); found != hub.watchers.end()) {
    std::erase(found->second, &sleeper);
    if (found->second.empty()) {
      hub.watchers.erase(found);
      (void)sys::inotify_rm_watch(hub.inotify.get(), sleeper.watch);  // EINVAL if the inode took it along
    }
  }
  sleeper.watch = -1;
}

void Sleeper::call() noexcept {
  called.store(true);
  bell.ring();
}

Awakened sleep_until(Sleeper& sleeper, std::chrono::steady_clock::time_point until) {
  Hub& hub = g_hub.get();
  std::unique_lock lock(hub.mutex);
  hub.sleeping.push_back(&sleeper);
  std::optional<Awakened> reason;
  while (!reason) {
    if (std::exchange(sleeper.changed, false)) {
      reason = Awakened::inode_changed;
    } else if (sleeper.called.exchange(false)) {
      reason = Awakened::called;
    } else {
      if (hub.leader == nullptr) {
        hub.leader = &sleeper;
      }
      const bool leads = hub.leader == &sleeper;
      lock.unlock();
      const Ready ready = poll_once(hub, sleeper, leads, until);
      if (ready.bell) {
        sleeper.bell.silence();  // what it rang for is found out above
      }
      if (ready.owner) {
        sleeper.owner.reset();
        reason = Awakened::owner_ended;
      } else if (!ready.any()) {
        reason = Awakened::time;
      }
      lock.lock();
      if (ready.events) {
        dispatch_events(hub);
      }
    }
  }
  std::erase(hub.sleeping, &sleeper);
  if (hub.leader == &sleeper) {
    pass_lead(hub);
  }
  return *reason;
}

}  // namespace sessionlock
