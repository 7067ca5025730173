#include "hold/lock_queue.hpp"

#include <algorithm>
#include <atomic>
#include <functional>
#include <string>
#include <unordered_map>
#include <utility>

#include "hold/events.hpp"
#include "hold/lock_share.hpp"
#include "system/mutex.hpp"
#include "system/per_process.hpp"

namespace sessionlock {
namespace {

struct HashFile {
  std::size_t operator()(const FileIdentity& file) const noexcept {
    return static_cast<std::size_t>((file.inode * 0x9e3779b97f4a7c15U) ^ file.device);
  }
};

/// INVARIANT: an entry exists while a thread has the turn or a hold; `queue` is not empty only then.
struct Entry {
  std::shared_ptr<Hold> hold;
  std::list<Ticket*> queue;
};

using Entries = std::unordered_map<HoldKey, Entry, HashHoldKey, std::equal_to<>>;

}  // namespace

struct QueueTable {
  Mutex mutex;
  Entries entries GUARDED_BY(mutex);
  std::unordered_map<FileIdentity, int, HashFile> inodes GUARDED_BY(mutex);
  std::vector<std::shared_ptr<Hold>> failed GUARDED_BY(mutex);
  std::atomic<std::size_t> failed_count{0};

  /// Takes a hold off its entry, if the entry still has that hold. The caller lets go of what is returned, which may be
  /// the last share, only after the mutex.
  std::shared_ptr<Hold> take_off(Entry& entry, const Hold& hold) REQUIRES(mutex);
  /// Gives the turn to the next in the queue, or the entry up.
  void pass_on(Entries::iterator found) REQUIRES(mutex);
  /// Gives a hold to its entry, and a share of it to each in the queue that may have one.
  void put_in(const HoldKey& key, const std::shared_ptr<Hold>& hold) REQUIRES(mutex);
};

namespace {

PerProcess<QueueTable> g_table;

}  // namespace

std::shared_ptr<Hold> QueueTable::take_off(Entry& entry, const Hold& hold) {
  if (entry.hold.get() != &hold) {
    return nullptr;
  }
  if (const auto inode = inodes.find(hold.file()); inode != inodes.end() && --inode->second == 0) {
    inodes.erase(inode);
  }
  return std::exchange(entry.hold, nullptr);
}

void QueueTable::pass_on(Entries::iterator found) {
  found->second.hold.reset();
  if (found->second.queue.empty()) {
    entries.erase(found);
    return;
  }
  Ticket& next = *found->second.queue.front();
  found->second.queue.pop_front();
  next.place_.reset();
  next.has_turn_ = true;
  next.slot_.wake();
}

void QueueTable::put_in(const HoldKey& key, const std::shared_ptr<Hold>& hold) {
  Entry& entry = entries[key];
  ++inodes[hold->file()];  // takes memory, so it comes before what could not be taken back
  entry.hold = hold;
  for (auto place = entry.queue.begin(); place != entry.queue.end();) {
    Ticket& ticket = **place;
    if (hold->is_shared_by(ticket.options_, ticket.thread_) && hold->add_share()) {
      place = entry.queue.erase(place);
      ticket.place_.reset();
      ticket.share_ = hold;
      ticket.slot_.wake();
    } else {
      ++place;
    }
  }
}

void Turn::end() noexcept {
  if (QueueTable* const table = g_table.find();
      key_ && table != nullptr) {  // none: a child of the process that had the turn
    const MutexLock lock(table->mutex);
    if (const auto found = table->entries.find(*std::exchange(key_, std::nullopt)); found != table->entries.end()) {
      table->pass_on(found);
    }
  }
}

void Turn::hand_to(const std::shared_ptr<Hold>& hold) {
  QueueTable& table = g_table.get();
  const MutexLock lock(table.mutex);
  table.put_in(*key_, hold);
  key_.reset();
}

Ticket::Ticket(const AcquireOptions& options, ThreadToken thread, WaitSlot& slot) noexcept
    : options_(options), thread_(thread), slot_(slot) {}

Ticket::~Ticket() {
  const QueueResult unclaimed = leave();  // a turn passes itself on
  if (unclaimed.kind == QueueResult::Kind::shared) {
    give_up_share(unclaimed.hold);
  }
}

QueueResult Ticket::enter(const HoldKeyView& key, const Deadline& deadline) {
  std::shared_ptr<Hold> ended;  // may be the last share: it must not go under the mutex
  // For the turn: made before there is one, which nobody would pass on without it.
  key_ = HoldKey{key.directory, std::string(key.name)};
  QueueTable& table = g_table.get();
  const MutexLock lock(table.mutex);
  const auto [found, is_new] = table.entries.try_emplace(key_);
  if (is_new) {
    return {.kind = QueueResult::Kind::turn, .turn = Turn(std::move(key_))};
  }
  Entry& entry = found->second;
  if (entry.hold && (entry.hold->has_ended() || entry.hold->is_abandoned())) {
    // Clean-up ended it and may touch no table; or another thread is just about to take it off, and finds that done; or
    // the program closed its descriptor.
    ended = table.take_off(entry, *entry.hold);
    if (entry.queue.empty()) {
      return {.kind = QueueResult::Kind::turn, .turn = Turn(std::move(key_))};
    }
    table.pass_on(found);
  }
  if (entry.hold && entry.hold->is_shared_by(options_, thread_) && entry.hold->add_share()) {
    return {.kind = QueueResult::Kind::shared, .hold = entry.hold};
  }
  if (deadline.is_single_try()) {
    return {.kind = QueueResult::Kind::busy};
  }
  const bool is_own = deadline.is_unlimited() && entry.hold && entry.hold->thread() == thread_;
  if (is_own || is_notifying(key)) {
    return {.kind = QueueResult::Kind::self_deadlock};
  }
  place_ = entry.queue.insert(entry.queue.end(), this);
  generation_ = sys::process_generation();
  return {.kind = QueueResult::Kind::queued};
}

QueueResult Ticket::take_answer() {
  if (std::exchange(has_turn_, false)) {
    return {.kind = QueueResult::Kind::turn, .turn = Turn(std::move(key_))};
  }
  if (share_) {
    return {.kind = QueueResult::Kind::shared, .hold = std::exchange(share_, nullptr)};
  }
  return {.kind = QueueResult::Kind::queued};
}

QueueResult Ticket::ask() {
  QueueTable& table = g_table.get();
  const MutexLock lock(table.mutex);
  return take_answer();
}

bool Ticket::is_inherited() const noexcept {
  return generation_ != sys::process_generation();
}

QueueResult Ticket::leave() {
  if (generation_ != sys::process_generation()) {
    return {.kind = QueueResult::Kind::queued};  // was never queued, or is in its parent's table only
  }
  QueueTable& table = g_table.get();
  const MutexLock lock(table.mutex);
  if (place_) {
    // A queue is not empty only while its entry exists.
    table.entries.find(key_)->second.queue.erase(*std::exchange(place_, std::nullopt));
  }
  return take_answer();
}

void remove_hold(const Hold& hold) {
  std::shared_ptr<Hold> last;  // may be the last share: it must not go under the mutex
  QueueTable& table = g_table.get();
  const MutexLock lock(table.mutex);
  const auto found = table.entries.find(key_of(hold.location()));
  if (found == table.entries.end()) {
    return;
  }
  last = table.take_off(found->second, hold);
  if (last) {
    table.pass_on(found);
  }
}

void keep_for_retry(std::shared_ptr<Hold> hold) {
  QueueTable& table = g_table.get();
  const MutexLock lock(table.mutex);
  table.failed.push_back(std::move(hold));
  table.failed_count.store(table.failed.size());
}

void retry_failed_releases() {
  QueueTable& table = g_table.get();
  if (table.failed_count.load() == 0) [[likely]] {
    return;
  }
  std::vector<std::shared_ptr<Hold>> pending;
  {
    const MutexLock lock(table.mutex);
    pending.swap(table.failed);
  }
  std::erase_if(pending, [](const std::shared_ptr<Hold>& hold) { return hold->try_release(); });
  const MutexLock lock(table.mutex);
  table.failed.insert(table.failed.end(), pending.begin(), pending.end());
  table.failed_count.store(table.failed.size());
}

bool is_held_here(const FileIdentity& file) {
  QueueTable& table = g_table.get();
  const MutexLock lock(table.mutex);
  return table.inodes.contains(file) && std::any_of(table.entries.begin(), table.entries.end(), [&](const auto& entry) {
           const auto& hold = entry.second.hold;
           return hold && hold->file() == file && !hold->is_abandoned();
         });
}

std::vector<HeldLock> list_holds() {
  QueueTable& table = g_table.get();
  std::vector<HeldLock> held;
  const MutexLock lock(table.mutex);
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
  QueueTable& table = g_table.get();
  std::vector<std::shared_ptr<Hold>> holds;
  const MutexLock lock(table.mutex);
  for (const auto& [key, entry] : table.entries) {
    if (entry.hold && entry.hold->params().options.get() == &options && !entry.hold->has_ended()) {
      holds.push_back(entry.hold);
    }
  }
  return holds;
}

}  // namespace sessionlock
