#include "hold/lock_queue.hpp"

#include <algorithm>
#include <atomic>
#include <functional>
#include <list>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>

#include "hold/events.hpp"
#include "system/cancellation.hpp"
#include "system/per_process.hpp"

namespace sessionlock {
namespace {

struct HashFile {
  std::size_t operator()(const FileIdentity& file) const noexcept {
    return static_cast<std::size_t>((file.inode * 0x9e3779b97f4a7c15U) ^ file.device);
  }
};

/// One thread in a queue. Lives on that thread's stack.
struct Ticket {
  const AcquireOptions& options;
  const ThreadToken thread{this_thread()};
  std::condition_variable_any called{};
  bool has_turn{false};
  std::shared_ptr<Hold> shared{};

  [[nodiscard]] bool is_answered() const { return has_turn || shared != nullptr; }
};

/// INVARIANT: an entry exists while a thread has the turn or a hold; `queue` is not empty only then.
struct Entry {
  std::shared_ptr<Hold> hold;
  std::list<Ticket*> queue;
};

using Entries = std::unordered_map<HoldKey, Entry, HashHoldKey, std::equal_to<>>;

struct Table {
  std::mutex mutex;
  Entries entries;
  std::unordered_map<FileIdentity, int, HashFile> inodes;
  std::vector<std::shared_ptr<Hold>> failed;
  std::atomic<std::size_t> failed_count{0};
};
PerProcess<Table> g_table;

/// Takes a hold off its entry, if the entry still has that hold. The caller holds the table's mutex, and lets go of
/// what is returned, which may be the last share, only after it.
std::shared_ptr<Hold> take_off(Table& table, Entry& entry, const Hold& hold) {
  if (entry.hold.get() != &hold) {
    return nullptr;
  }
  if (const auto inode = table.inodes.find(hold.file()); inode != table.inodes.end() && --inode->second == 0) {
    table.inodes.erase(inode);
  }
  return std::exchange(entry.hold, nullptr);
}

/// Gives the turn to the next in the queue, or the entry up. The caller holds the table's mutex.
void pass_on(Table& table, Entries::iterator found) {
  found->second.hold.reset();
  if (found->second.queue.empty()) {
    table.entries.erase(found);
    return;
  }
  Ticket* next = found->second.queue.front();
  found->second.queue.pop_front();
  next->has_turn = true;
  next->called.notify_one();
}

}  // namespace

Turn::~Turn() {
  if (key_) {
    Table& table = g_table.get();
    const std::lock_guard lock(table.mutex);
    if (const auto found = table.entries.find(*key_); found != table.entries.end()) {
      pass_on(table, found);
    }
  }
}

void Turn::hand_to(const std::shared_ptr<Hold>& hold) {
  Table& table = g_table.get();
  const std::lock_guard lock(table.mutex);
  Entry& entry = table.entries[*key_];
  ++table.inodes[hold->file()];  // takes memory, so it comes before what could not be taken back
  entry.hold = hold;
  for (auto ticket = entry.queue.begin(); ticket != entry.queue.end();) {
    if (hold->is_shared_by((*ticket)->options, (*ticket)->thread) && hold->add_share()) {
      (*ticket)->shared = hold;
      (*ticket)->called.notify_one();
      ticket = entry.queue.erase(ticket);
    } else {
      ++ticket;
    }
  }
  key_.reset();
}

namespace {

/// Until the ticket is answered, the time is over, or the stop request comes, or the thread stands in the wrong queue:
/// true only then.
bool wait_for_answer(Ticket& ticket, std::unique_lock<std::mutex>& lock, const Deadline& deadline,
                     const std::function<QueueLook()>& look_up) {
  const sys::CancellationDisabled disabled;
  const std::stop_token& stop = ticket.options.stop;
  while (!ticket.is_answered() && !stop.stop_requested() && !deadline.has_passed()) {
    lock.unlock();
    const QueueLook look = look_up();
    lock.lock();
    if (look.has_moved && !ticket.is_answered()) {
      return true;
    }
    ticket.called.wait_until(lock, stop, std::min(deadline.end(), look.again),
                             [&ticket] { return ticket.is_answered(); });
  }
  return false;
}

}  // namespace

class HoldTable {
 public:
  static Admission queue_for(const HoldKeyView& key, const AcquireOptions& options, const Deadline& deadline,
                             const std::function<QueueLook()>& look_up);

 private:
  static Admission answer(const Ticket& ticket, HoldKey&& key) {
    return ticket.has_turn ? Admission{.kind = Admission::Kind::turn, .has_queued = true, .turn = Turn(std::move(key))}
                           : Admission{.kind = Admission::Kind::shared, .has_queued = true, .hold = ticket.shared};
  }
};

Admission HoldTable::queue_for(const HoldKeyView& key, const AcquireOptions& options, const Deadline& deadline,
                               const std::function<QueueLook()>& look_up) {
  std::shared_ptr<Hold> ended;  // may be the last share: it must not go under the mutex
  // For the turn: made before there is one, which nobody would pass on without it.
  HoldKey own_key{key.directory, std::string(key.name)};
  Table& table = g_table.get();
  std::unique_lock lock(table.mutex);
  const auto [found, is_new] = table.entries.try_emplace(own_key);
  if (is_new) {
    return {.kind = Admission::Kind::turn, .turn = Turn(std::move(own_key))};
  }
  Entry& entry = found->second;
  if (entry.hold && entry.hold->has_ended()) {
    // Clean-up ended it and may touch no table; or another thread is just about to take it off, and finds that done.
    ended = take_off(table, entry, *entry.hold);
    if (entry.queue.empty()) {
      return {.kind = Admission::Kind::turn, .turn = Turn(std::move(own_key))};
    }
    pass_on(table, found);
  }
  if (entry.hold && entry.hold->is_shared_by(options, this_thread()) && entry.hold->add_share()) {
    return {.kind = Admission::Kind::shared, .hold = entry.hold};
  }
  if (deadline.is_single_try()) {
    return {.kind = Admission::Kind::busy};
  }
  const bool is_own = deadline.is_unlimited() && entry.hold && entry.hold->thread() == this_thread();
  if (is_own || is_notifying(key)) {
    return {.kind = Admission::Kind::would_block_itself};
  }
  Ticket ticket{options};
  const auto place = entry.queue.insert(entry.queue.end(), &ticket);
  const bool has_moved = wait_for_answer(ticket, lock, deadline, look_up);
  if (ticket.is_answered()) {
    return answer(ticket, std::move(own_key));
  }
  // Not answered, so the ticket still stands in the queue, and the entry, having a queue, still exists.
  entry.queue.erase(place);
  const auto kind = has_moved                       ? Admission::Kind::moved
                    : options.stop.stop_requested() ? Admission::Kind::cancelled
                                                    : Admission::Kind::timed_out;
  return {.kind = kind, .has_queued = true};
}

Admission queue_for(const HoldKeyView& key, const AcquireOptions& options, const Deadline& deadline,
                    const std::function<QueueLook()>& look_up) {
  return HoldTable::queue_for(key, options, deadline, look_up);
}

void remove_hold(const Hold& hold) {
  std::shared_ptr<Hold> last;  // may be the last share: it must not go under the mutex
  Table& table = g_table.get();
  const std::lock_guard lock(table.mutex);
  const auto found = table.entries.find(key_of(hold.location()));
  if (found == table.entries.end()) {
    return;
  }
  last = take_off(table, found->second, hold);
  if (last) {
    pass_on(table, found);
  }
}

void keep_for_retry(std::shared_ptr<Hold> hold) {
  Table& table = g_table.get();
  const std::lock_guard lock(table.mutex);
  table.failed.push_back(std::move(hold));
  table.failed_count.store(table.failed.size());
}

void retry_failed_releases() {
  Table& table = g_table.get();
  if (table.failed_count.load() == 0) [[likely]] {
    return;
  }
  std::vector<std::shared_ptr<Hold>> pending;
  {
    const std::lock_guard lock(table.mutex);
    pending.swap(table.failed);
  }
  std::erase_if(pending, [](const std::shared_ptr<Hold>& hold) { return hold->try_release(); });
  const std::lock_guard lock(table.mutex);
  table.failed.insert(table.failed.end(), pending.begin(), pending.end());
  table.failed_count.store(table.failed.size());
}

bool is_held_here(const FileIdentity& file) {
  Table& table = g_table.get();
  const std::lock_guard lock(table.mutex);
  return table.inodes.contains(file);
}

std::vector<HeldLock> list_holds() {
  Table& table = g_table.get();
  std::vector<HeldLock> held;
  const std::lock_guard lock(table.mutex);
  for (const auto& [key, entry] : table.entries) {
    if (entry.hold && !entry.hold->has_ended()) {
      held.push_back({entry.hold->session_path(), entry.hold->lock_path(), entry.hold->record(), entry.hold->held_for(),
                      entry.hold->depth()});
    }
  }
  std::sort(held.begin(), held.end(), [](const HeldLock& a, const HeldLock& b) { return a.lock_path < b.lock_path; });
  return held;
}

std::vector<std::shared_ptr<Hold>> holds_of(const ManagerOptions& options) {
  Table& table = g_table.get();
  std::vector<std::shared_ptr<Hold>> holds;
  const std::lock_guard lock(table.mutex);
  for (const auto& [key, entry] : table.entries) {
    if (entry.hold && entry.hold->params().options.get() == &options && !entry.hold->has_ended()) {
      holds.push_back(entry.hold);
    }
  }
  return holds;
}

}  // namespace sessionlock
