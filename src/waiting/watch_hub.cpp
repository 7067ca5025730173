#include "waiting/watch_hub.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include <sys/inotify.h>

#include "process/procfs.hpp"
#include "system/deadline.hpp"
#include "system/mutex.hpp"
#include "system/per_process.hpp"

namespace sessionlock {
namespace {

/// An unlink with descriptors open changes the link count (IN_ATTRIB); without them the inode goes (IN_DELETE_SELF).
constexpr std::uint32_t k_events = IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF;

/// Between two tries of a poll that the kernel refuses: programs can close what is not theirs, or allow themselves no
/// descriptors at all.
constexpr std::chrono::milliseconds k_refused_poll_pause{10};

/// The inotify instance of the process, and those who wait by it. A program that becomes a daemon may close its number
/// and open an instance of its own under it, so it is asked whose it is (`usable_instance`) before it is used.
struct Hub {
  Mutex mutex;
  sys::Fd inotify GUARDED_BY(mutex);
  /// Of `inotify`, counted: a watch of a former one means nothing in this.
  std::uint64_t instance GUARDED_BY(mutex){0};
  std::unordered_map<int, std::vector<Sleeper*>> watchers GUARDED_BY(mutex);
  std::vector<Sleeper*> sleeping GUARDED_BY(mutex);
  Sleeper* leader GUARDED_BY(mutex){nullptr};
  /// The leader fell asleep when there was something to watch.
  bool leader_listens GUARDED_BY(mutex){false};
};
PerProcess<Hub> g_hub;

/// `reader` reads the events itself, and needs no bell to hear of them.
void tell(const std::vector<Sleeper*>& sleepers, const Sleeper& reader) {
  for (Sleeper* sleeper : sleepers) {
    sleeper->changed = true;
    if (sleeper != &reader) {
      sleeper->bell.ring();
    }
  }
}

/// Whether there is an instance and its number is ours. If the number is foreign, all who wait by it are woken, to
/// watch anew.
bool usable_instance(Hub& hub, const Sleeper& caller) REQUIRES(hub.mutex) {
  if (!hub.inotify || hub.inotify.is_usable()) {
    return static_cast<bool>(hub.inotify);
  }
  hub.inotify.reset();
  ++hub.instance;
  hub.leader_listens = false;
  for (const auto& [watch, sleepers] : std::exchange(hub.watchers, {})) {
    tell(sleepers, caller);
  }
  return false;
}

/// Takes all events and tells whom they concern. False if the instance is not ours: nothing was read.
bool dispatch_events(Hub& hub, const Sleeper& reader) REQUIRES(hub.mutex) {
  if (!usable_instance(hub, reader)) {
    return false;
  }
  alignas(inotify_event) std::array<char, 4096> buffer;  // NOLINT(*-member-init): the kernel fills it
  while (true) {
    const auto got = sys::read(hub.inotify.get(), buffer.data(), buffer.size());
    if (!got.ok() || got.value <= 0) {
      return true;
    }
    const auto size = static_cast<std::size_t>(got.value);
    for (std::size_t at = 0; at + sizeof(inotify_event) <= size;) {
      inotify_event event{};
      std::memcpy(&event, buffer.data() + at, sizeof event);
      at += sizeof event + event.len;
      if ((event.mask & IN_Q_OVERFLOW) != 0) {
        for (const auto& [watch, sleepers] : hub.watchers) {
          tell(sleepers, reader);
        }
      } else if (const auto found = hub.watchers.find(event.wd); found != hub.watchers.end()) {
        tell(found->second, reader);
      }
    }
    if (size + sizeof(inotify_event) + NAME_MAX < buffer.size()) {
      return true;  // another event would have had room (inotify(7))
    }
  }
}

/// Gives the lead to another sleeper.
void pass_lead(Hub& hub) REQUIRES(hub.mutex) {
  const auto next = std::find_if(hub.sleeping.begin(), hub.sleeping.end(),
                                 [](const Sleeper* sleeper) { return sleeper->bell.is_open(); });
  hub.leader_listens = false;
  hub.leader = next == hub.sleeping.end() ? nullptr : *next;
  if (hub.leader != nullptr) {
    hub.leader->bell.ring();
  }
}

struct Polled {
  bool bell{false};
  bool owner{false};
  bool events{false};
  bool refused{false};
};

Polled poll_once(int inotify, const Sleeper& sleeper, std::chrono::steady_clock::time_point until) {
  // A negative descriptor is passed over (poll(2)).
  std::array<::pollfd, 3> descriptors{
      {{sleeper.bell.fd(), POLLIN, 0}, {sleeper.owner.get(), POLLIN, 0}, {inotify, POLLIN, 0}}};
  const auto ready = sys::poll(descriptors.data(), descriptors.size(), until);
  if (!ready.ok() || std::any_of(descriptors.begin(), descriptors.end(), [](const ::pollfd& descriptor) {
        return (descriptor.revents & (POLLNVAL | POLLERR)) != 0;
      })) {
    return {.refused = true};
  }
  return {descriptors[0].revents != 0, descriptors[1].revents != 0, descriptors[2].revents != 0};
}

sys::Outcome add_watch(Hub& hub, const Sleeper& sleeper, int fd) REQUIRES(hub.mutex) {
  if (!usable_instance(hub, sleeper)) {
    auto opened = sys::inotify_init();
    if (!opened.ok()) {
      return {-1, opened.error};
    }
    hub.inotify = std::move(opened.fd);
  }
  return sys::inotify_add_watch(hub.inotify.get(), descriptor_link(fd).data(), k_events);
}

/// Says whether others still watch the same inode.
bool take_off(Hub& hub, const Sleeper& sleeper) REQUIRES(hub.mutex) {
  const auto found = hub.watchers.find(sleeper.watch);
  if (found == hub.watchers.end()) {
    return false;
  }
  std::erase(found->second, &sleeper);
  if (found->second.empty()) {
    hub.watchers.erase(found);
    return false;
  }
  return true;
}

}  // namespace

std::error_code Bell::open() {
  auto opened = sys::eventfd();
  event_ = std::move(opened.fd);
  return opened.ok() ? std::error_code{} : opened.code();
}

void Bell::ring() const noexcept {
  const std::uint64_t one = 1;
  if (event_.is_usable()) {
    (void)sys::write(event_.get(), &one, sizeof one);
  }
}

bool Bell::silence() const noexcept {
  if (!event_.is_usable()) {
    return false;
  }
  std::uint64_t count = 0;
  (void)sys::read(event_.get(), &count, sizeof count);
  return true;
}

std::error_code watch_inode(Sleeper& sleeper, int fd) {
  unwatch_inode(sleeper);
  Hub& hub = g_hub.get();
  const MutexLock lock(hub.mutex);
  const auto watch = add_watch(hub, sleeper, fd);
  if (!watch.ok()) {
    return watch.code();
  }
  sleeper.changed = false;
  hub.watchers[static_cast<int>(watch.value)].push_back(&sleeper);
  sleeper.watch = static_cast<int>(watch.value);
  sleeper.instance = hub.instance;
  if (!hub.leader_listens) {
    hub.leader = nullptr;  // whoever watches leads
  }
  return {};
}

void unwatch_inode(Sleeper& sleeper) noexcept {
  if (sleeper.watch < 0) {
    return;
  }
  Hub& hub = g_hub.get();
  const MutexLock lock(hub.mutex);
  if (sleeper.instance == hub.instance && !take_off(hub, sleeper) && usable_instance(hub, sleeper)) {
    (void)sys::inotify_rm_watch(hub.inotify.get(), sleeper.watch);  // EINVAL if the inode took it along
  }
  sleeper.watch = -1;
}

void stop_telling(Sleeper& sleeper) noexcept {
  if (sleeper.watch >= 0) {
    Hub& hub = g_hub.get();
    const MutexLock lock(hub.mutex);
    if (sleeper.instance == hub.instance) {
      (void)take_off(hub, sleeper);
    }
  }
}

bool is_intact(const Sleeper& sleeper) noexcept {
  if ((sleeper.bell.is_open() && !sleeper.bell.is_usable()) || (sleeper.owner && !sleeper.owner.is_usable())) {
    return false;
  }
  if (sleeper.watch < 0) {
    return true;
  }
  Hub& hub = g_hub.get();
  const MutexLock lock(hub.mutex);
  return usable_instance(hub, sleeper) && sleeper.instance == hub.instance;
}

bool has_news(Sleeper& sleeper) {
  Hub& hub = g_hub.get();
  {
    const MutexLock lock(hub.mutex);
    if (!hub.watchers.empty()) {
      (void)dispatch_events(hub, sleeper);
    }
    if (sleeper.changed) {
      return true;
    }
  }
  return poll_once(-1, sleeper, std::chrono::steady_clock::now()).owner && sleeper.owner.is_usable();
}

void Sleeper::call() noexcept {
  called.store(true);
  bell.ring();
}

Awakened sleep_until(Sleeper& sleeper, std::chrono::steady_clock::time_point until) {
  Hub& hub = g_hub.get();
  MutexLock lock(hub.mutex);
  hub.sleeping.push_back(&sleeper);
  std::optional<Awakened> reason;
  while (true) {
    if (std::exchange(sleeper.changed, false)) {
      reason = Awakened::inode_changed;
    } else if (sleeper.called.exchange(false)) {
      reason = Awakened::called;
    }
    if (reason) {
      break;
    }
    // Nobody can ring for a leader without a bell, so it leads only where nobody else can.
    if (hub.leader == nullptr || (!hub.leader->bell.is_open() && sleeper.bell.is_open())) {
      hub.leader = &sleeper;
    }
    const bool leads = hub.leader == &sleeper;
    const bool listens = (leads || !sleeper.bell.is_open()) && !hub.watchers.empty();
    if (leads) {
      hub.leader_listens = listens;
    }
    const int inotify = listens ? hub.inotify.get() : -1;
    lock.unlock();
    Polled polled = poll_once(inotify, sleeper, until);
    // What the bell rang for is found out above. A number that is foreign says nothing, and may be ready without end.
    const bool is_misled = (polled.bell && !sleeper.bell.silence()) || (polled.owner && !sleeper.owner.is_usable());
    lock.lock();
    polled.refused = polled.refused || is_misled || (polled.events && !dispatch_events(hub, sleeper));
    if (polled.refused) {
      lock.unlock();
      sessionlock::sleep_until(std::min(until, std::chrono::steady_clock::now() + k_refused_poll_pause));
      lock.lock();
      reason = Awakened::time;
    } else if (polled.owner) {
      sleeper.owner.reset();
      reason = Awakened::owner_ended;
    } else if (!polled.bell && !polled.events) {
      reason = Awakened::time;
    }
  }
  std::erase(hub.sleeping, &sleeper);
  if (hub.leader == &sleeper) {
    pass_lead(hub);
  }
  return *reason;
}

}  // namespace sessionlock
