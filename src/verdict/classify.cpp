#include "verdict/classify.hpp"

#include <algorithm>
#include <charconv>
#include <utility>

#include <sessionlock/error.hpp>

namespace sessionlock {
namespace {

using std::chrono::milliseconds;

/// Nothing that only this library writes.
bool is_foreign(const LockRecord& record) {
  return !record.boot_id && !record.pid_namespace && !record.time_namespace && !record.witness && !record.lock_id;
}

/// An unknown age is not old: what cannot be told is never a reason to take a lock away.
bool is_older(std::optional<milliseconds> age, milliseconds limit) {
  return age && *age > std::max(limit, milliseconds{0});
}

/// How long until `is_older` is true; none if never, or if the age is unknown.
std::optional<milliseconds> time_until_older(std::optional<milliseconds> age, milliseconds limit) {
  limit = std::max(limit, milliseconds{0});
  if (!age || limit == milliseconds::max()) {
    return std::nullopt;
  }
  // Older, not as old: one millisecond more than what is left.
  return std::max(limit - std::max(*age, milliseconds{0}) + milliseconds{1}, milliseconds{0});
}

/// How long until the age of a lock exceeds a limit: that of its record, if it has one, and that of its file.
std::optional<milliseconds> time_until_aged(const Inspection& inspection, milliseconds limit) {
  if (!inspection.age || !inspection.file_age) {
    return time_until_older(inspection.age ? inspection.age : inspection.file_age, limit);
  }
  return time_until_older(std::min(*inspection.age, *inspection.file_age), limit);
}

/// What the record's times say, whoever the owner is.
struct Times {
  std::optional<milliseconds> age{};
  bool created_at_is_a_time{};
  bool too_old{};
  bool hold_exceeded{};
  /// Old enough for the policies that let age decide.
  bool aged{};
};

Times judge_times(const LockRecord& record, const Evidence& evidence, const StalePolicy& policy) {
  Times times;
  const auto created_at = record.created_at ? parse_rfc3339(*record.created_at) : std::nullopt;
  times.created_at_is_a_time = created_at.has_value();
  if (created_at) {
    // A clock was wrong: then the file tells its own age.
    const bool lies_ahead = *created_at > evidence.now;
    times.age = lies_ahead ? evidence.file_age : age_of(*created_at, evidence.now);
    // And where the observer's clock is ahead, only `createdAt` looks old.
    const auto are_both_older = [&](milliseconds limit) {
      return is_older(times.age, limit) && (!evidence.file_age || is_older(evidence.file_age, limit));
    };
    times.too_old = are_both_older(policy.stale_after);
    times.hold_exceeded = record.max_hold_ms && are_both_older(milliseconds{*record.max_hold_ms});
  }
  times.aged = times.too_old || (!created_at && is_older(evidence.file_age, policy.stale_after));
  return times;
}

struct Verdict {
  Basis basis{};
  OwnerState owner{};
  bool removable{};
  std::optional<StaleReason> reason{};
};

Verdict alive(Basis basis) {
  return {basis, OwnerState::alive, false, std::nullopt};
}
Verdict dead(Basis basis, StaleReason reason) {
  return {basis, OwnerState::dead, true, reason};
}

/// How far a file's time and a process's age may be apart and still mean the same moment.
constexpr milliseconds k_clock_slack{2000};

/// Whether the file was last written before the observer started.
bool is_older_than_observer(const Evidence& evidence) {
  return evidence.own_age && evidence.file_age && *evidence.file_age > k_clock_slack &&
         *evidence.file_age - k_clock_slack > *evidence.own_age;
}

/// What a lock without a usable pid means.
Verdict judge_without_pid(const Evidence& evidence, const StalePolicy& policy) {
  const bool names_process =
      evidence.digits == PidProbe::exists && !(evidence.own_digits && is_older_than_observer(evidence));
  if (names_process) {  // 4a
    const bool removable =
        policy.aged_unverified == AgedUnverified::reclaim && is_older(evidence.file_age, policy.stale_after);
    return {Basis::digits, OwnerState::alive, removable, StaleReason::missing_pid};
  }
  if (!evidence.can_be_lock) {  // 4b
    return {Basis::not_a_lock, OwnerState::none, false, StaleReason::missing_pid};
  }
  const bool removable = is_older(evidence.file_age, policy.malformed_grace);  // 4
  return {Basis::no_pid, OwnerState::none, removable, StaleReason::missing_pid};
}

/// The verdict table, from top to bottom. The numbers are its rows.
Verdict judge(const LockRecord& record, const Evidence& evidence, const StalePolicy& policy, bool aged) {
  const bool comparable = evidence.comparison != Comparison::none;
  const bool exists = evidence.pid == PidProbe::exists;
  const bool starts_known = record.starttime && evidence.observed_start_ticks;
  const bool starts_equal = starts_known && *record.starttime == *evidence.observed_start_ticks;
  const bool starts_differ = starts_known && !starts_equal && evidence.other_start_counts;
  const bool start_proves_nothing = starts_known && !starts_equal && !evidence.other_start_counts;
  const bool witness_free = evidence.witness == WitnessState::free;

  if (evidence.unreadable || evidence.witness_failure) {  // 1
    return {Basis::unreadable, OwnerState::unknown, false, std::nullopt};
  }
  if (evidence.held_here) {  // 2
    return alive(Basis::held_here);
  }
  if (evidence.witness == WitnessState::held) {  // 3
    const bool owner_ended = record.pid && comparable && (evidence.pid == PidProbe::gone || starts_differ);
    return alive(owner_ended ? Basis::witness_inherited : Basis::witness_held);
  }
  if (!record.pid) {
    return judge_without_pid(evidence, policy);
  }
  if (comparable && evidence.own_pid && starts_equal && witness_free) {  // 5
    return dead(Basis::orphan_self, StaleReason::orphan_self_pid);
  }
  if (evidence.comparison == Comparison::foreign && (!record.starttime || start_proves_nothing) && evidence.own_pid &&
      is_older_than_observer(evidence)) {  // 5b
    return dead(Basis::orphan_self, StaleReason::orphan_self_pid);
  }
  if (comparable && evidence.pid == PidProbe::gone) {  // 6
    return dead(Basis::pid_gone, StaleReason::dead_pid);
  }
  if (comparable && starts_differ) {  // 7
    return dead(Basis::start_differs, StaleReason::recycled_pid);
  }
  if (comparable && starts_equal) {  // 8
    return alive(Basis::verified);
  }
  if (evidence.comparison == Comparison::foreign && !record.starttime && exists) {  // 9
    const bool removable = aged && policy.aged_unverified == AgedUnverified::reclaim;
    return {Basis::unverified, OwnerState::alive, removable, std::nullopt};
  }
  if (comparable && exists && !start_proves_nothing) {  // 9b
    return alive(Basis::start_unknown);
  }
  if (!comparable && witness_free) {  // 10
    return dead(Basis::witness_free, StaleReason::orphaned);
  }
  if (evidence.other_boot && record.witness && evidence.local_file_system && evidence.older_than_boot) {  // 11
    return dead(Basis::before_this_boot, StaleReason::previous_boot);
  }
  const bool removable = aged && policy.unknown_owner == UnknownOwner::reclaim_when_aged;  // 12
  return {Basis::undecided, OwnerState::unknown, removable, std::nullopt};
}

/// A policy may let the file's age overrule what is known of the owner, but never rows 1, 2 and 4b.
bool mtime_may_overrule(Basis basis) {
  return basis != Basis::unreadable && basis != Basis::held_here && basis != Basis::not_a_lock;
}

bool is_overruled_by_mtime(const Verdict& verdict, const Evidence& evidence, const RemovalPolicy& policy) {
  return policy.stale_mtime && mtime_may_overrule(verdict.basis) && is_older(evidence.file_age, *policy.stale_mtime);
}

std::optional<DeclaredWitness> declared_witness(const LockRecord& record) {
  return record.witness ? parse_witness(*record.witness) : std::nullopt;
}

bool is_of_boot(const LockRecord& record, const Observer& observer) {
  return record.boot_id && !observer.boot_id.empty() && *record.boot_id == observer.boot_id;
}

LockState state_of(const Verdict& verdict) {
  if (verdict.removable) {
    return LockState::stale;
  }
  return verdict.basis == Basis::no_pid ? LockState::pending : LockState::held;
}

}  // namespace

Comparison compare(const LockRecord& record, const Observer& observer) {
  const bool time_namespace_known = observer.time_namespace != 0 || observer.time_namespaces_absent;
  if (observer.boot_id.empty() || observer.pid_namespace == 0 || !time_namespace_known) {
    return Comparison::none;
  }
  if (is_foreign(record)) {
    return Comparison::foreign;
  }
  const bool same = record.boot_id == observer.boot_id && record.pid_namespace == observer.pid_namespace &&
                    record.time_namespace == observer.time_namespace;
  return same ? Comparison::own : Comparison::none;
}

WitnessState judge_witness(const LockRecord& record, WitnessQuery query, const FileIdentity& file,
                           const Observer& observer, Locality locality, ListQuery list) {
  if (query == WitnessQuery::write_locked) {
    return WitnessState::held;
  }
  if (needs_lock_list(record, query, file, observer, locality)) {
    return list == ListQuery::not_listed ? WitnessState::free : WitnessState::unknown;
  }
  const auto witness = declared_witness(record);
  // A copy of a lock file, or its other overlay layer, declares the witness of an inode that was not asked.
  if (query != WitnessQuery::not_locked || !witness || witness->file != file) {
    return WitnessState::unknown;
  }
  const bool is_of_this_kernel = witness->form == WitnessForm::ofd2 && locality == Locality::local;
  const bool is_free = is_of_this_kernel || (is_of_boot(record, observer) && locality != Locality::unknown);
  return is_free ? WitnessState::free : WitnessState::unknown;
}

bool is_in_initial_time_namespace(const Observer& observer) {
  constexpr std::uint64_t k_initial = 0xEFFFFFFA;  // include/linux/proc_ns.h, PROC_TIME_INIT_INO
  return observer.time_namespaces_absent || observer.time_namespace == k_initial;
}

bool needs_lock_list(const LockRecord& record, WitnessQuery query, const FileIdentity& file, const Observer& observer,
                     Locality locality) {
  const auto witness = declared_witness(record);
  if (query != WitnessQuery::not_locked || !witness || !is_of_boot(record, observer)) {
    return false;
  }
  const bool has_moved = witness->file.inode == file.inode && witness->file.device != file.device;
  return has_moved && locality == (witness->form == WitnessForm::ofd2 ? Locality::local : Locality::overlay);
}

void relate(Evidence& evidence, const LockRecord& record, const Observer& observer) {
  evidence.comparison = compare(record, observer);
  evidence.other_start_counts = evidence.comparison != Comparison::foreign || is_in_initial_time_namespace(observer);
  evidence.other_boot = record.boot_id && !observer.boot_id.empty() && *record.boot_id != observer.boot_id;
  evidence.own_pid = evidence.comparison != Comparison::none && record.pid == observer.pid;
}

bool needs_file_age(const LockRecord& record, const Evidence& related, const RemovalPolicy& policy) {
  const bool may_be_older_than_observer = related.own_pid && (!record.starttime || !related.other_start_counts);
  if (policy.stale_mtime || !record.pid || may_be_older_than_observer) {
    return true;
  }
  const auto created_at = record.created_at ? parse_rfc3339(*record.created_at) : std::nullopt;
  if (!created_at || *created_at > related.now) {
    return true;
  }
  const milliseconds age = age_of(*created_at, related.now);
  return is_older(age, policy.stale_after) || (record.max_hold_ms && is_older(age, milliseconds{*record.max_hold_ms}));
}

std::optional<milliseconds> time_until_removable(const Inspection& inspection, const RemovalPolicy& policy) {
  if (inspection.removable) {
    return std::nullopt;
  }
  const bool gives_up =
      (inspection.basis == Basis::unverified && policy.aged_unverified == AgedUnverified::reclaim) ||
      (inspection.basis == Basis::undecided && policy.unknown_owner == UnknownOwner::reclaim_when_aged);
  std::optional<milliseconds> due;
  if (inspection.basis == Basis::no_pid) {
    due = time_until_older(inspection.file_age, policy.malformed_grace);
  } else if (inspection.basis == Basis::digits && policy.aged_unverified == AgedUnverified::reclaim) {
    due = time_until_older(inspection.file_age, policy.stale_after);
  } else if (gives_up) {
    due = time_until_aged(inspection, policy.stale_after);
  }
  if (policy.stale_mtime && mtime_may_overrule(inspection.basis)) {
    const auto overruled = time_until_older(inspection.file_age, *policy.stale_mtime);
    due = due && overruled ? std::min(*due, *overruled) : (due ? due : overruled);
  }
  return due;
}

Inspection classify(LockRecord record, const Evidence& evidence, const RemovalPolicy& policy) {
  const Times times = judge_times(record, evidence, policy);
  Verdict verdict = judge(record, evidence, policy, times.aged);
  const bool overruled = is_overruled_by_mtime(verdict, evidence, policy);
  verdict.removable = verdict.removable || overruled;
  Inspection inspection;
  inspection.state = state_of(verdict);
  inspection.owner = verdict.owner;
  inspection.pid_alive = record.pid && evidence.comparison != Comparison::none && evidence.pid == PidProbe::exists;
  inspection.age = times.age;
  inspection.file_age = evidence.file_age;
  inspection.removable = verdict.removable;
  inspection.basis = verdict.basis;
  if (verdict.basis == Basis::unreadable) {
    inspection.cause = evidence.unreadable ? evidence.unreadable : evidence.witness_failure;
  } else if (verdict.basis == Basis::not_a_lock) {
    inspection.cause = make_error_code(Errc::not_a_lock_file);
  }
  if (verdict.reason) {
    inspection.reasons.push_back(*verdict.reason);
  }
  // Nothing is known of the times in a file that could not be read.
  if (!evidence.unreadable) {
    if (!times.created_at_is_a_time) {
      inspection.reasons.push_back(StaleReason::invalid_created_at);
    }
    if (times.too_old || overruled) {
      inspection.reasons.push_back(StaleReason::too_old);
    }
    if (times.hold_exceeded) {
      inspection.reasons.push_back(StaleReason::hold_exceeded);
    }
  }
  inspection.record = std::move(record);
  return inspection;
}

}  // namespace sessionlock
