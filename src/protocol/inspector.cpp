#include "protocol/inspector.hpp"

#include <utility>

#include "process/lock_list.hpp"
#include "process/this_process.hpp"
#include "protocol/session_location.hpp"
#include "text/timestamp.hpp"
#include "verdict/classify.hpp"

namespace sessionlock {
namespace {

using std::chrono::milliseconds;

/// Fills in what has to be asked about the owner's process and boot.
void ask_about_owner(Evidence& evidence, const PinnedInode& pinned, const LockText& text, const Observer& observer,
                     const InspectionContext& context) {
  const LockRecord& record = text.record;
  relate(evidence, record, observer);
  if (record.pid && evidence.comparison != Comparison::none) {
    const ProcessProbe probe = context.probe(*record.pid);
    evidence.pid = probe.pid;
    evidence.observed_start_ticks = probe.start_time_ticks;
  }
  if (text.digits_pid && evidence.comparison != Comparison::none) {
    evidence.digits = context.probe(*text.digits_pid).pid;
    evidence.own_digits = *text.digits_pid == observer.pid;
  }
  if ((evidence.own_pid || evidence.own_digits) && observer.start_time_ticks) {
    evidence.own_age = process_age(*observer.start_time_ticks);
  }
  if (evidence.other_boot && evidence.local_file_system) {
    const auto boot = boot_time_seconds();
    evidence.older_than_boot = boot && pinned.modified < WallTime{std::chrono::seconds{*boot}};
  }
}

milliseconds age_of_file(const PinnedInode& pinned, WallTime now, UnchangedTime* unchanged) {
  return pinned.modified > now && unchanged != nullptr ? unchanged->of(pinned) : age_of(pinned.modified, now);
}

Evidence gather(const PinnedInode& pinned, const LockText& text, const Place& place, const InspectionContext& context) {
  const LockRecord& record = text.record;
  const Observer& observer = context.observer != nullptr ? *context.observer : current_observer();
  Evidence evidence;
  evidence.now = sys::wall_clock();
  const Locality locality = record.witness ? locality_of_file(pinned) : Locality::unknown;
  evidence.local_file_system = locality != Locality::unknown;
  const WitnessAnswer answer = query_witness(pinned);
  if (record.witness) {
    evidence.witness_failure = answer.failure;
  }
  evidence.witness = find_witness(pinned, answer.query, record, observer, locality);
  evidence.can_be_lock = text.form != LockForm::other;
  evidence.held_here = context.held_here && context.held_here(pinned.file);
  ask_about_owner(evidence, pinned, text, observer, context);
  if (needs_file_age(record, evidence, context.policy)) {
    const auto now = context.file_system_now ? context.file_system_now : context.clock(*place.directory);
    evidence.file_age = age_of_file(pinned, now.value_or(evidence.now), context.unchanged);
  }
  return evidence;
}

}  // namespace

milliseconds UnchangedTime::of(const PinnedInode& pinned) {
  const auto now = std::chrono::steady_clock::now();
  if (since_ == std::chrono::steady_clock::time_point{} || file_ != pinned.file || modified_ != pinned.modified) {
    file_ = pinned.file;
    modified_ = pinned.modified;
    since_ = now;
  }
  return std::chrono::duration_cast<milliseconds>(now - since_);
}

WitnessState find_witness(const PinnedInode& pinned, WitnessQuery answer, const LockRecord& record,
                          const Observer& observer, Locality locality) {
  ListQuery list = ListQuery::not_asked;
  if (needs_lock_list(record, answer, pinned.file, observer, locality)) {
    const auto listed = has_listed_ofd_lock(pinned.file.inode, k_witness_offset);
    list = !listed ? ListQuery::unknown : *listed ? ListQuery::listed : ListQuery::not_listed;
  }
  return judge_witness(record, answer, pinned.file, observer, locality, list);
}

Inspection judge(const PinnedLock& pinned, const Place& place, const InspectionContext& context) {
  Inspection inspection;
  if (pinned.content) {
    const LockText& text = *pinned.content;
    inspection = classify(text.record, gather(pinned, text, place, context), context.policy);
    inspection.digits_pid = text.digits_pid;
  } else {
    Evidence evidence;
    evidence.unreadable = pinned.content.error();
    inspection = classify({}, evidence, context.policy);
    inspection.denied_by = pinned.denied_by;
  }
  inspection.lock_path = place.path();
  return inspection;
}

std::filesystem::path session_path_of(const LockRecord& record, const Place& lock) {
  if (record.session) {
    return *record.session;
  }
  const std::string name = session_name_of_lock(lock.name);
  return name.empty() ? std::filesystem::path() : lock.directory->path_of(name);
}

Inspection free_lock(const Place& place) {
  Inspection inspection;
  inspection.lock_path = place.path();
  return inspection;
}

}  // namespace sessionlock
