#include "claims/pid_inspector.hpp"

#include <chrono>
#include <utility>

#include <unistd.h>

#include <sessionlock/process_identity.hpp>

#include "claims/own_claims.hpp"
#include "claims/pid_record.hpp"
#include "claims/pid_verdict.hpp"
#include "process/process_probe.hpp"
#include "process/this_process.hpp"
#include "protocol/inspector.hpp"
#include "system/file_status.hpp"
#include "verdict/classify.hpp"

namespace sessionlock {
namespace {

using std::chrono::milliseconds;

/// The members of a PID record that lock records have as well, for the rules that both share.
LockRecord shared_fields(const PidRecord& record) {
  LockRecord lock;
  lock.pid = record.pid;
  lock.boot_id = record.boot_id;
  lock.pid_namespace = record.pid_namespace;
  lock.time_namespace = record.time_namespace;
  lock.witness = record.witness;
  return lock;
}

/// Where the record was written, beside where this process is. One without boot and namespaces, as text forms and other
/// programs have it, is compared as if it were written here; but it may come from another time namespace, where another
/// one can be entered.
void ask_where_it_was_written(PidFileEvidence& evidence, const LockRecord& lock, const PinnedFile& pinned,
                              const Observer& observer) {
  if (!lock.boot_id && !lock.pid_namespace && !lock.time_namespace && !lock.witness) {
    evidence.other_token_counts = is_in_initial_time_namespace(observer);
    return;
  }
  Evidence relation;
  relate(relation, lock, observer);
  evidence.token_is_comparable = relation.comparison == Comparison::own;
  const bool same_numbers = lock.boot_id && !relation.other_boot && lock.pid_namespace && observer.pid_namespace != 0 &&
                            *lock.pid_namespace == observer.pid_namespace;
  evidence.pid_is_comparable = evidence.token_is_comparable || same_numbers;
  if (relation.other_boot && lock.witness && locality_of_file(pinned) != Locality::unknown) {
    const auto boot = boot_time_seconds();
    evidence.is_from_previous_boot = boot && pinned.modified < WallTime{std::chrono::seconds{*boot}};
  }
}

milliseconds file_age(const PinnedFile& pinned, const Place& place) {
  return age_of(pinned.modified, file_system_clock(place.directory->fd.get()).value_or(sys::wall_clock()));
}

/// Whether a file was last written before a process started. A time from before 2020 is what a machine writes whose
/// clock is not set yet, and proves nothing.
bool is_older_than(const PinnedFile& pinned, const Place& place, pid_t pid) {
  constexpr WallTime k_plausible{std::chrono::seconds{1'577'836'800}};
  constexpr milliseconds k_clock_slack{2000};
  const auto started = process_start_time(pid);
  return started && pinned.modified >= k_plausible && file_age(pinned, place) - k_clock_slack > process_age(*started);
}

/// Whether the pid says too little. After a restart a container numbers its processes as before, so a file that a
/// former one left names pid 1, the claimer, its child or its parent more often than not:
///   1. A, pid 3 of a container, writes its pid. 2. The container is killed, and started again. 3. B, the claimer, is
///   its pid 3 now, or 2, and its child pid 3.
void ask_who_has_the_pid(PidFileEvidence& evidence, pid_t pid, const PinnedFile& pinned, const Place& place,
                         std::optional<pid_t> claimed_for) {
  evidence.names_claimer = claimed_for && (pid == ::getpid() || pid == *claimed_for);
  const bool is_likely = pid == 1 || pid == ::getppid() || pid == ::getpid();
  evidence.is_older_than_process = is_likely && !evidence.names_claimer && is_older_than(pinned, place, pid);
}

Result<PidFileEvidence> gather(const PidText& text, const PinnedFile& pinned, const Place& place,
                               std::optional<pid_t> claimed_for) {
  const LockRecord lock = shared_fields(text.record);
  const Observer& observer = current_observer();
  const WitnessAnswer answer = query_witness(pinned);
  if (answer.failure && lock.witness) {
    return failure(answer.failure, "fcntl(F_OFD_GETLK)", place);
  }
  const WitnessState witness =
      find_witness(pinned, answer.query, lock, observer, lock.witness ? locality_of_file(pinned) : Locality::unknown);
  PidFileEvidence evidence;
  evidence.is_held = is_own_claim(pinned.file) || witness == WitnessState::held;
  evidence.witness_is_free = witness == WitnessState::free;
  ask_where_it_was_written(evidence, lock, pinned, observer);
  const auto pid = text.record.pid ? text.record.pid : text.record.digits_pid;
  if (pid && evidence.pid_is_comparable) {
    // The token first: one that cannot be read because its process is just ending is then a dead process's.
    evidence.token = process_start_token(*pid);
    evidence.liveness = process_liveness(*pid);
    ask_who_has_the_pid(evidence, *pid, pinned, place, claimed_for);
  }
  if (text.form != PidTextForm::record) {
    evidence.file_age = file_age(pinned, place);
  }
  return evidence;
}

}  // namespace

Result<std::optional<PinnedFile>> pin_pid_file(const Place& place) {
  auto pinned = pin_file(place);
  if (pinned && *pinned && !(*pinned)->content) {
    return failure((*pinned)->content.error(), "read PID file", place);
  }
  if (pinned && *pinned && (*pinned)->content->too_long) {
    return failure(Errc::not_a_lock_file, "read PID file", place, "it is longer than any PID file");
  }
  return pinned;
}

Result<PidFileInspection> inspect_pinned(const PinnedFile& pinned, const Place& place, const PidFilePolicy& policy,
                                         std::optional<pid_t> claimed_for) {
  if (!pinned.content) {
    return failure(pinned.content.error(), "read PID file", place);
  }
  PidText text = pinned.content->too_long ? PidText{PidTextForm::other, {}} : read_pid_text(pinned.content->text);
  const auto evidence = gather(text, pinned, place, claimed_for);
  if (!evidence) {
    return tl::unexpected(evidence.error());
  }
  PidFileInspection found = judge_pid_file(std::move(text), *evidence, policy);
  found.path = place.path();
  return found;
}

tl::unexpected<Error> no_pid_file(const std::string& operation, const std::filesystem::path& path) {
  return failure(Errc::not_a_lock_file, operation, path,
                 "there is something else than a PID file in it; name another file, or move this one away");
}

}  // namespace sessionlock
