#pragma once

/// \file
/// One hold of this process and what may be done with it. At its end it takes itself off the table of `lock_queue.hpp`,
/// which has the holds.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <list>
#include <memory>
#include <optional>
#include <string>

#include <sessionlock/error.hpp>
#include <sessionlock/options.hpp>
#include <sessionlock/process_identity.hpp>
#include <sessionlock/session_lock.hpp>

#include "hold/hold_core.hpp"
#include "protocol/inode_guard.hpp"
#include "protocol/lock_file.hpp"
#include "protocol/publication.hpp"
#include "protocol/session_location.hpp"
#include "system/mutex.hpp"
#include "waiting/waiter.hpp"

namespace sessionlock {

/// How long a release, a guarded write or a verification waits for another that is under way.
inline constexpr std::chrono::seconds k_hold_wait{5};

/// One thread, for as long as the process lives. Not `std::thread::id`: the id of a thread that has ended is given out
/// again, and who has it next must not pass for the thread that acquired.
using ThreadToken = std::uint64_t;
inline constexpr ThreadToken k_no_thread = 0;
[[nodiscard]] ThreadToken this_thread() noexcept;

/// What a hold is, whatever file it is of.
struct HoldParams {
  std::shared_ptr<const ManagerOptions> options;
  std::string owner{};
  bool reentrant{false};
  /// Joined under another process's hold: checked by lock id too, and never unlinked.
  bool joined{false};
  std::chrono::milliseconds max_hold{0};
};

/// A lock file, and what belongs to it.
struct HeldFile {
  SessionLocation location;
  PublishedFile file;
  /// As in the lock file.
  LockRecord record;
  /// What was taken over, which is big and rare; null: nothing was.
  std::unique_ptr<const std::optional<Inspection>> reclaimed_from{};
  /// What the wait for it left to be closed, which takes time and so comes after the hold.
  std::unique_ptr<EndedWait> deferred_close{};
};

/// A hold, shared by the handles of a re-entrant acquisition and by transcripts. It is made before its lock file is, so
/// that no file is ever published for which there is no memory; until it begins it counts as ended.
/// Thread safety: safe from any thread. Lifetime: the descriptor's number stays reserved until the last share is gone.
class Hold : public std::enable_shared_from_this<Hold> {
 public:
  explicit Hold(HoldParams&& params);
  /// From now on the file is this hold's, which ends it. Once, and before any other thread knows the hold.
  void begin(HeldFile&& held) noexcept;
  ~Hold();
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;

  /// A guarded write's beginning. Blocking: `wait`; with 0, it tries once. Errors: `lost`, `timed_out`, of `flock` and
  /// `fstatat`.
  [[nodiscard]] Result<detail::GuardScope> enter_guard(std::chrono::milliseconds wait = k_hold_wait);
  void leave_guard() noexcept;
  /// Whether the lock file is still this hold's.
  [[nodiscard]] Result<void> verify();
  /// Gives the lock up, or plans it for the end of the calling thread's own guarded write. Blocking: as `enter_guard`.
  [[nodiscard]] Result<void> release(std::chrono::milliseconds wait = k_hold_wait);
  /// Gives the lock up if nothing is under way; never waits. True if the hold has ended, and
  /// nothing is left of it.
  bool try_release() noexcept;
  /// The acquisition is complete: its end is told to the observer. Where it never was, as on what turned out to be
  /// another session's lock, nobody hears of it.
  /// What was taken over is discarded then. True for the first of the handles that share the hold: to that one alone
  /// the take-over is reported.
  bool announce() noexcept;
  /// Whether an acquire has returned it, or is about to: before, only the acquiring thread may end it.
  [[nodiscard]] bool is_announced() const noexcept { return is_announced_.load(); }
  [[nodiscard]] Result<pid_t> spawn(const char* file, char* const argv[], char* const envp[]);
  /// A program was started with this lock, and may write under it for as long as it likes.
  [[nodiscard]] bool is_handed_over() const noexcept { return is_handed_over_.load(); }

  /// One more handle; false if the last is being given up.
  [[nodiscard]] bool add_share();
  /// One handle less; releases with the last. On failure, other than `lost`, the share stays.
  [[nodiscard]] Result<void> drop_share(std::chrono::milliseconds wait = k_hold_wait);
  /// The share that a failed `drop_share` left goes without another try. True if it was the last: then nobody can share
  /// the hold any more, and it may be released behind everybody's back.
  [[nodiscard]] bool abandon_share();

  [[nodiscard]] bool has_ended() const noexcept;
  /// The program has closed the lock file's descriptor: with it the witness has gone, and the number of the inode may
  /// be another file's. The next use of the hold finds it lost. Not while a thread is inside a guarded write.
  [[nodiscard]] bool is_abandoned() const noexcept;
  /// A fork lies between the acquisition and now.
  [[nodiscard]] bool is_inherited() const noexcept;
  /// Whether an acquisition with these options by this thread may share the hold.
  [[nodiscard]] bool is_shared_by(const AcquireOptions& options, ThreadToken thread) const;
  [[nodiscard]] int depth() const;
  [[nodiscard]] std::chrono::milliseconds held_for() const;

  [[nodiscard]] const SessionLocation& location() const noexcept { return held_.location; }
  [[nodiscard]] const HoldParams& params() const noexcept { return params_; }
  /// Null: nothing was taken over.
  [[nodiscard]] const std::optional<Inspection>* reclaimed_from() const noexcept { return held_.reclaimed_from.get(); }
  [[nodiscard]] const FileIdentity& file() const noexcept { return core_.file; }
  [[nodiscard]] const LockRecord& record() const noexcept { return held_.record; }
  [[nodiscard]] const std::filesystem::path& session_path() const { return paths().session; }
  [[nodiscard]] const std::filesystem::path& lock_path() const { return paths().lock; }
  [[nodiscard]] ThreadToken thread() const noexcept { return thread_; }
  [[nodiscard]] HoldCore& core() noexcept { return core_; }

 private:
  /// Made when first asked for: making a path costs as much as a system call, and most holds are never asked. Threads
  /// that ask at the same time each make them, and the first one's are kept.
  struct Paths {
    std::filesystem::path session;
    std::filesystem::path lock;
  };
  [[nodiscard]] const Paths& paths() const;
  /// `claim` for a thread that found the phase taken, or others waiting.
  [[nodiscard]] Result<void> queue_for_idle(HoldPhase phase, std::chrono::steady_clock::time_point deadline);
  [[nodiscard]] Error lost_error() const;
  /// Takes the phase from idle, waiting for it; nested guarded writes are the caller's to see first.
  [[nodiscard]] Result<void> claim(HoldPhase phase, std::chrono::steady_clock::time_point deadline);
  /// Gives the phase back, and wakes who waits for it.
  void set_phase(HoldPhase phase) noexcept;
  class ClaimedPhase;
  /// Repeats a step on the lock file while that is busy.
  template <class F>
  [[nodiscard]] Result<void> persist(F&& step, std::chrono::steady_clock::time_point deadline);
  /// A step's error, with the reason why the lock file may not be removed if it is that.
  [[nodiscard]] Error explain_failure(const Step& step) const;
  [[nodiscard]] Result<void> check_lock_id() const;
  /// Whether the lock still keeps others away from its session (`is_reached`); the answer is `lost` where it does not.
  [[nodiscard]] Result<void> check_reach() const;
  /// With the phase `ending`: takes the file away and ends, or goes back to idle.
  [[nodiscard]] Result<void> release_now(std::chrono::steady_clock::time_point deadline);
  void release_after_guard() noexcept;
  void end(bool lost) noexcept;
  void discard_replaced() noexcept;

  const HoldParams params_;
  HeldFile held_{};
  HoldCore core_;
  mutable std::atomic<const Paths*> paths_{nullptr};
  std::chrono::steady_clock::time_point since_{};
  const ThreadToken thread_{this_thread()};

  std::atomic<ThreadToken> guarding_thread_{k_no_thread};
  int guard_depth_{0};               // of the guarding thread alone
  bool release_after_guard_{false};  // likewise

  /// Threads that wait for the phase `idle`, in the order in which they came.
  Mutex queue_mutex_;
  Condition phase_changed_;
  std::list<HoldPhase> queue_ GUARDED_BY(queue_mutex_);
  /// Its length, to be asked without the mutex.
  std::atomic<int> queued_{0};
  std::atomic<int> shares_{1};
  std::atomic<bool> is_announced_{params_.joined};
  std::atomic<bool> is_handed_over_{false};
  /// Lost, but its file was busy and still has to be removed.
  std::atomic<bool> leaves_file_{false};
};

}  // namespace sessionlock
