#include "waiting/watch_hub.hpp"

#include <algorithm>
#include <array>
#include <climits>
#include <cstring>
#include <unordered_map>
#include <utility>
#include <vector>

#include <sys/inotify.h>

#include "process/procfs.hpp"
#include "system/per_process.hpp"

namespace sessionlock {

/// The inotify instance of the process, and the watches in it. A program that becomes a daemon may close its number
/// and open an instance of its own under it, so it is asked whose it is (`has_instance`) before it is used.
struct Hub {
  Mutex mutex;
  sys::Fd inotify GUARDED_BY(mutex);
  /// Of `inotify`, counted: a watch of a former one means nothing in this.
  std::uint64_t instance GUARDED_BY(mutex){0};
  std::unordered_map<int, std::vector<InodeWatch*>> watches GUARDED_BY(mutex);
  std::vector<Parker*> sleeping GUARDED_BY(mutex);
  Parker* leader GUARDED_BY(mutex){nullptr};
  /// The leader fell asleep when there was something to watch.
  bool leader_listens GUARDED_BY(mutex){false};

  /// Whether there is an instance and its number is ours. If the number is foreign, all that wait by it are woken, to
  /// watch anew.
  bool has_instance() REQUIRES(mutex);
  bool dispatch() REQUIRES(mutex);
  sys::Outcome add(int fd) REQUIRES(mutex);
  /// Says whether others still watch the same inode.
  bool remove(const InodeWatch& watch) REQUIRES(mutex);

 private:
  static void wake(const std::vector<InodeWatch*>& watches);
};

namespace {

/// An unlink with descriptors open changes the link count (IN_ATTRIB); without them the inode goes (IN_DELETE_SELF).
constexpr std::uint32_t k_events = IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF;

PerProcess<Hub> g_hub;

}  // namespace

void Hub::wake(const std::vector<InodeWatch*>& watches) {
  for (const InodeWatch* watch : watches) {
    watch->notify();
  }
}

bool Hub::has_instance() {
  if (!inotify || inotify.is_usable()) {
    return static_cast<bool>(inotify);
  }
  inotify.reset();
  ++instance;
  leader_listens = false;
  for (const auto& [number, watching] : std::exchange(watches, {})) {
    wake(watching);
  }
  return false;
}

bool Hub::dispatch() {
  if (!has_instance()) {
    return false;
  }
  alignas(inotify_event) std::array<char, 4096> buffer;  // NOLINT(*-member-init): the kernel fills it
  while (true) {
    const auto got = sys::read(inotify.get(), buffer.data(), buffer.size());
    if (!got.ok() || got.value <= 0) {
      return true;
    }
    const auto size = static_cast<std::size_t>(got.value);
    for (std::size_t at = 0; at + sizeof(inotify_event) <= size;) {
      inotify_event event{};
      std::memcpy(&event, buffer.data() + at, sizeof event);
      at += sizeof event + event.len;
      if ((event.mask & IN_Q_OVERFLOW) != 0) {
        for (const auto& [number, watching] : watches) {
          wake(watching);
        }
      } else if (const auto found = watches.find(event.wd); found != watches.end()) {
        wake(found->second);
      }
    }
    if (size + sizeof(inotify_event) + NAME_MAX < buffer.size()) {
      return true;  // another event would have had room (inotify(7))
    }
  }
}

sys::Outcome Hub::add(int fd) {
  if (!has_instance()) {
    auto opened = sys::inotify_init();
    if (!opened.ok()) {
      return {-1, opened.error};
    }
    inotify = std::move(opened.fd);
  }
  return sys::inotify_add_watch(inotify.get(), descriptor_link(fd).data(), k_events);
}

bool Hub::remove(const InodeWatch& watch) {
  const auto found = watches.find(watch.watch_);
  if (found == watches.end()) {
    return false;
  }
  std::erase(found->second, &watch);
  if (found->second.empty()) {
    watches.erase(found);
    return false;
  }
  return true;
}

std::error_code InodeWatch::begin(int fd) {
  end();
  Hub& hub = g_hub.get();
  const MutexLock lock(hub.mutex);
  const auto added = hub.add(fd);
  if (!added.ok()) {
    return added.code();
  }
  slot_.forget(WakeCause::inode_changed);
  hub.watches[static_cast<int>(added.value)].push_back(this);
  watch_ = static_cast<int>(added.value);
  instance_ = hub.instance;
  if (!hub.leader_listens) {
    hub.leader = nullptr;  // a thread that watches leads
  }
  return {};
}

void InodeWatch::end() noexcept {
  if (watch_ < 0) {
    return;
  }
  Hub& hub = g_hub.get();
  const MutexLock lock(hub.mutex);
  if (instance_ == hub.instance && !hub.remove(*this) && hub.has_instance()) {
    (void)sys::inotify_rm_watch(hub.inotify.get(), watch_);  // EINVAL if the inode took it along
  }
  watch_ = -1;
}

void InodeWatch::stop_notifying() noexcept {
  if (watch_ >= 0) {
    Hub& hub = g_hub.get();
    const MutexLock lock(hub.mutex);
    if (instance_ == hub.instance) {
      (void)hub.remove(*this);
    }
  }
}

bool InodeWatch::is_intact() const noexcept {
  if (watch_ < 0) {
    return true;
  }
  Hub& hub = g_hub.get();
  const MutexLock lock(hub.mutex);
  return hub.has_instance() && instance_ == hub.instance;
}

HubSleep::HubSleep(Parker& parker) : parker_(parker) {
  Hub& hub = g_hub.get();
  const MutexLock lock(hub.mutex);
  hub.sleeping.push_back(&parker);
}

HubSleep::~HubSleep() {
  Hub& hub = g_hub.get();
  const MutexLock lock(hub.mutex);
  std::erase(hub.sleeping, &parker_);
  if (hub.leader != &parker_) {
    return;
  }
  const auto next = std::find_if(hub.sleeping.begin(), hub.sleeping.end(),
                                 [](const Parker* sleeping) { return sleeping->has_event(); });
  hub.leader_listens = false;
  hub.leader = next == hub.sleeping.end() ? nullptr : *next;
  if (hub.leader != nullptr) {
    hub.leader->unpark();
  }
}

int HubSleep::instance_to_read() {
  Hub& hub = g_hub.get();
  const MutexLock lock(hub.mutex);
  // Nothing can wake a leader without an event, so it leads only where nobody else can.
  if (hub.leader == nullptr || (!hub.leader->has_event() && parker_.has_event())) {
    hub.leader = &parker_;
  }
  const bool leads = hub.leader == &parker_;
  const bool listens = (leads || !parker_.has_event()) && !hub.watches.empty();
  if (leads) {
    hub.leader_listens = listens;
  }
  return listens ? hub.inotify.get() : -1;
}

bool HubSleep::dispatch() {
  Hub& hub = g_hub.get();
  const MutexLock lock(hub.mutex);
  return hub.dispatch();
}

bool has_pending_event(WaitSlot& slot) {
  Hub& hub = g_hub.get();
  {
    const MutexLock lock(hub.mutex);
    if (!hub.watches.empty()) {
      (void)hub.dispatch();
    }
  }
  if (slot.has(WakeCause::inode_changed) || slot.has(WakeCause::owner_ended)) {
    return true;
  }
  ::pollfd owner{slot.owner().get(), POLLIN, 0};
  return sys::poll(&owner, 1, std::chrono::steady_clock::now()).ok() && owner.revents == POLLIN &&
         slot.owner().is_usable();
}

}  // namespace sessionlock
