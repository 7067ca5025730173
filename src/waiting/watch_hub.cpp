#include "waiting/watch_hub.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include <sys/inotify.h>

#include "process/procfs.hpp"
#include "system/deadline.hpp"
#include "system/per_process.hpp"

namespace sessionlock {
namespace {

/// An unlink with descriptors open changes the link count (IN_ATTRIB); without them the inode goes (IN_DELETE_SELF).
constexpr std::uint32_t k_events = IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF;

/// Between two tries of a poll that the kernel refuses: programs can close what is not theirs, or allow themselves no
/// descriptors at all.
constexpr std::chrono::milliseconds k_refused_poll_pause{10};

/// INVARIANT: the instance is read and polled only while `watchers` is not empty, because adding a watch proved that
/// its number is still ours. A program that becomes a daemon may have closed and reused it before.
struct Hub {
  std::mutex mutex;
  sys::Fd inotify;
  std::unordered_map<int, std::vector<Sleeper*>> watchers;
  std::vector<Sleeper*> sleeping;
  Sleeper* leader{nullptr};
  /// The leader fell asleep when there was something to watch.
  bool leader_listens{false};
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

/// Takes all events and tells whom they concern. The caller holds the hub's mutex.
void dispatch_events(Hub& hub, const Sleeper& reader) {
  alignas(inotify_event) std::array<char, 4096> buffer;  // NOLINT(*-member-init): the kernel fills it
  while (true) {
    const auto got = sys::read(hub.inotify.get(), buffer.data(), buffer.size());
    if (!got.ok() || got.value <= 0) {
      return;
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
      return;  // another event would have had room (inotify(7))
    }
  }
}

/// Gives the lead to another sleeper. The caller holds the hub's mutex.
void pass_lead(Hub& hub) {
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

sys::Outcome add_watch(Hub& hub, int fd) {
  for (int attempt = 0;; ++attempt) {
    if (!hub.inotify) {
      auto opened = sys::inotify_init();
      if (!opened.ok()) {
        return {-1, opened.error};
      }
      hub.inotify = std::move(opened.fd);
    }
    const auto watch = sys::inotify_add_watch(hub.inotify.get(), descriptor_link(fd).data(), k_events);
    // The number is closed, or something else's: the program closed what it did not open.
    if (attempt > 0 || (watch.error != EBADF && watch.error != EINVAL)) {
      return watch;
    }
    hub.inotify.abandon();
    hub.watchers.clear();
    hub.leader_listens = false;
  }
}

/// Says whether others still watch the same inode.
bool take_off(Hub& hub, const Sleeper& sleeper) {
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
  const auto watch = add_watch(hub, fd);
  if (!watch.ok()) {
    return watch.code();
  }
  sleeper.changed = false;
  hub.watchers[static_cast<int>(watch.value)].push_back(&sleeper);
  sleeper.watch = static_cast<int>(watch.value);
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
  const std::lock_guard lock(hub.mutex);
  if (!take_off(hub, sleeper)) {
    (void)sys::inotify_rm_watch(hub.inotify.get(), sleeper.watch);  // EINVAL if the inode took it along
  }
  sleeper.watch = -1;
}

void stop_telling(Sleeper& sleeper) noexcept {
  if (sleeper.watch >= 0) {
    Hub& hub = g_hub.get();
    const std::lock_guard lock(hub.mutex);
    (void)take_off(hub, sleeper);
  }
}

bool has_news(Sleeper& sleeper) {
  Hub& hub = g_hub.get();
  {
    const std::lock_guard lock(hub.mutex);
    if (!hub.watchers.empty()) {
      dispatch_events(hub, sleeper);
    }
    if (sleeper.changed) {
      return true;
    }
  }
  return poll_once(-1, sleeper, std::chrono::steady_clock::now()).owner;
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
    const Polled polled = poll_once(inotify, sleeper, until);
    if (polled.bell) {
      sleeper.bell.silence();  // what it rang for is found out above
    }
    if (polled.owner) {
      sleeper.owner.reset();
      reason = Awakened::owner_ended;
    } else if (polled.refused) {
      sessionlock::sleep_until(std::min(until, std::chrono::steady_clock::now() + k_refused_poll_pause));
      reason = Awakened::time;
    } else if (!polled.bell && !polled.events) {
      reason = Awakened::time;
    }
    lock.lock();
    if (polled.events) {
      dispatch_events(hub, sleeper);
    }
  }
  std::erase(hub.sleeping, &sleeper);
  if (hub.leader == &sleeper) {
    pass_lead(hub);
  }
  return *reason;
}

}  // namespace sessionlock
