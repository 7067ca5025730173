#include "claims/pid_verdict.hpp"

#include <algorithm>
#include <utility>

#include <fmt/core.h>

#include "text/duration_text.hpp"

namespace sessionlock {
namespace {

using std::chrono::milliseconds;

struct Verdict {
  PidFileState state{};
  PidFileReason reason{};
};

Verdict unverified(UnverifiedOwner owner) {
  return {owner == UnverifiedOwner::trust ? PidFileState::alive : PidFileState::stale, PidFileReason::unverified};
}

/// What is known of a running process of which no token tells whether it is the one that was meant.
Verdict judge_by_pid(const PidFileEvidence& evidence, UnverifiedOwner owner) {
  return evidence.is_older_than_process ? Verdict{PidFileState::stale, PidFileReason::older_than_process}
                                        : unverified(owner);
}

/// What is known of a process that cannot be asked about from here.
Verdict judge_elsewhere(const PidFileEvidence& evidence) {
  if (evidence.witness_is_free) {
    return {PidFileState::stale, PidFileReason::orphaned};
  }
  return evidence.is_from_previous_boot ? Verdict{PidFileState::stale, PidFileReason::previous_boot}
                                        : Verdict{PidFileState::unknown, PidFileReason::undecided};
}

Verdict judge_record(const PidRecord& record, const PidFileEvidence& evidence, const PidFilePolicy& policy) {
  if (!evidence.pid_is_comparable) {
    return judge_elsewhere(evidence);
  }
  if (evidence.liveness == Liveness::dead) {
    return {PidFileState::stale, PidFileReason::pid_gone};
  }
  if (evidence.liveness == Liveness::unknown) {
    return {PidFileState::unknown, PidFileReason::undecided};
  }
  if (record.corrupt_token) {
    return {PidFileState::invalid, PidFileReason::corrupt_token};
  }
  if (evidence.names_claimer && (!record.start_token || record.start_token == evidence.token)) {
    return {PidFileState::stale, PidFileReason::claimers_pid};
  }
  if (!record.start_token) {
    return judge_by_pid(evidence, policy.without_token);
  }
  if (!evidence.token || !evidence.token_is_comparable) {
    return unverified(policy.unreadable_token);
  }
  if (is_tick_token(*record.start_token) != is_tick_token(*evidence.token)) {
    return {PidFileState::unknown, PidFileReason::undecided};  // counted by different clocks
  }
  if (*record.start_token == *evidence.token) {
    return {PidFileState::alive, PidFileReason::verified};
  }
  return evidence.other_token_counts ? Verdict{PidFileState::stale, PidFileReason::recycled}
                                     : judge_by_pid(evidence, policy.unreadable_token);
}

Verdict judge_unheld(const PidText& text, const PidFileEvidence& evidence, const PidFilePolicy& policy) {
  switch (text.form) {
    case PidTextForm::record:
      return judge_record(text.record, evidence, policy);
    case PidTextForm::other:
      return {PidFileState::invalid, PidFileReason::no_pid_file};
    case PidTextForm::blank:
      return {PidFileState::invalid, PidFileReason::empty};
    case PidTextForm::torn:
    case PidTextForm::no_pid:
      break;
  }
  const bool may_be_meant = !evidence.names_claimer && !evidence.is_older_than_process;
  if (text.record.digits_pid && evidence.liveness != Liveness::dead && may_be_meant) {
    return evidence.liveness == Liveness::alive ? Verdict{PidFileState::alive, PidFileReason::unverified}
                                                : Verdict{PidFileState::unknown, PidFileReason::undecided};
  }
  return {PidFileState::invalid, text.form == PidTextForm::torn ? PidFileReason::torn : PidFileReason::no_pid};
}

/// A held witness means running, whatever the text and the namespaces say; they only tell who.
Verdict judge(const PidText& text, const PidFileEvidence& evidence, const PidFilePolicy& policy) {
  const Verdict verdict = judge_unheld(text, evidence, policy);
  if (!evidence.is_held || verdict.state == PidFileState::alive) {
    return verdict;
  }
  const bool has_ended = verdict.reason == PidFileReason::pid_gone || verdict.reason == PidFileReason::recycled;
  return {PidFileState::alive, has_ended ? PidFileReason::witness_inherited : PidFileReason::witness_held};
}

/// How long a file that names no process has to be left alone yet.
milliseconds time_until_older(milliseconds age, milliseconds grace) {
  return age > grace ? milliseconds{0} : grace == milliseconds::max() ? grace : grace - age + milliseconds{1};
}

/// Whose process is meant, where the text tells.
std::string process_words(const PidRecord& record) {
  const auto pid = record.pid ? record.pid : record.digits_pid;
  return pid ? fmt::format("pid {}", *pid) : "nobody";
}

/// When a file that names no process is taken over.
std::string due_words(const PidFileInspection& found) {
  if (!found.due || !found.grace) {
    return "";
  }
  if (*found.due == milliseconds::max()) {
    return " It may be a claim in progress, and is never taken over.";
  }
  const std::string age = format_limit(*found.grace);
  return *found.due == milliseconds{0}
             ? fmt::format(" A claim takes it over, because it is more than {} old.", age)
             : fmt::format(" It may be a claim in progress, and is taken over once it is {} old, in {}.", age,
                           format_age(*found.due));
}

std::string running_words(const PidFileInspection& found) {
  const std::string process = process_words(found.record);
  switch (found.reason) {
    case PidFileReason::witness_held:
      return found.record.pid
                 ? fmt::format("Running: {}, or a program that shares its claim, holds the file's kernel lock.",
                               process)
                 : "Running: a process holds the kernel lock that came with the file, which names nobody now.";
    case PidFileReason::witness_inherited:
      return fmt::format("Running: {} has ended, but a program that shares its claim holds the file's kernel lock.",
                         process);
    case PidFileReason::verified:
      return fmt::format("Running: {} started when the file says.", process);
    default:
      return fmt::format("Running, as far as can be told: {} exists, but its start cannot be compared.", process);
  }
}

std::string stale_words(const PidFileInspection& found) {
  const std::string process = process_words(found.record);
  switch (found.reason) {
    case PidFileReason::recycled:
      return fmt::format("Stale: {} was reused by a process that started at another time.", process);
    case PidFileReason::unverified:
      return fmt::format("Stale by policy: {} exists, but nothing tells that it is the process that was meant.",
                         process);
    case PidFileReason::claimers_pid:
      return fmt::format("Stale: {} is the process that claims the file; a former one of that number left it.",
                         process);
    case PidFileReason::older_than_process:
      return fmt::format("Stale: the file is older than the process that has its pid, {}.", process);
    case PidFileReason::orphaned:
      return fmt::format(
          "Stale: {} was of another namespace or boot, and nobody holds the file's kernel lock any more.", process);
    case PidFileReason::previous_boot:
      return fmt::format("Stale: the file was written for {} before this machine was booted.", process);
    default:
      return fmt::format("Stale: {} is dead.", process);
  }
}

std::string invalid_words(const PidFileInspection& found) {
  switch (found.reason) {
    case PidFileReason::corrupt_token:
      return fmt::format("Invalid: {} exists, but the file's start token is corrupt.", process_words(found.record));
    case PidFileReason::empty:
      return "Invalid: the file is empty." + due_words(found);
    case PidFileReason::torn:
      return "Invalid: the file was cut off before it names a process." + due_words(found);
    case PidFileReason::no_pid_file:
      return "Invalid: the file holds something else than a PID file. It is left alone at any age.";
    default:
      return "Invalid: the file names no process." + due_words(found);
  }
}

}  // namespace

PidFileInspection judge_pid_file(PidText text, const PidFileEvidence& evidence, const PidFilePolicy& policy) {
  const Verdict verdict = judge(text, evidence, policy);
  PidFileInspection found;
  found.state = verdict.state;
  found.reason = verdict.reason;
  found.record = std::move(text.record);
  const bool names_nobody = found.state == PidFileState::invalid && !found.record.pid;
  if (names_nobody && found.reason != PidFileReason::no_pid_file) {
    found.grace = std::max(policy.malformed_grace, milliseconds{0});
    found.due = time_until_older(evidence.file_age, *found.grace);
  }
  return found;
}

bool is_removable(const PidFileInspection& found) {
  return found.state == PidFileState::stale || found.due == milliseconds{0};
}

std::string_view to_string(PidFileState state) {
  switch (state) {
    case PidFileState::missing:
      return "missing";
    case PidFileState::alive:
      return "alive";
    case PidFileState::stale:
      return "stale";
    case PidFileState::invalid:
      return "invalid";
    case PidFileState::unknown:
      return "unknown";
  }
  return "unknown";
}

std::string_view to_string(PidFileReason reason) {
  switch (reason) {
    case PidFileReason::no_file:
      return "no-file";
    case PidFileReason::witness_held:
      return "witness-held";
    case PidFileReason::witness_inherited:
      return "witness-inherited";
    case PidFileReason::verified:
      return "verified";
    case PidFileReason::unverified:
      return "unverified";
    case PidFileReason::pid_gone:
      return "pid-gone";
    case PidFileReason::recycled:
      return "recycled";
    case PidFileReason::corrupt_token:
      return "corrupt-token";
    case PidFileReason::empty:
      return "empty";
    case PidFileReason::torn:
      return "torn";
    case PidFileReason::no_pid:
      return "no-pid";
    case PidFileReason::no_pid_file:
      return "no-pid-file";
    case PidFileReason::claimers_pid:
      return "claimers-pid";
    case PidFileReason::older_than_process:
      return "older-than-process";
    case PidFileReason::orphaned:
      return "orphaned";
    case PidFileReason::previous_boot:
      return "previous-boot";
    case PidFileReason::undecided:
      return "undecided";
  }
  return "undecided";
}

std::string PidFileInspection::explanation() const {
  const std::string process = process_words(record);
  switch (state) {
    case PidFileState::missing:
      return "There is no PID file.";
    case PidFileState::alive:
      return running_words(*this);
    case PidFileState::stale:
      return stale_words(*this);
    case PidFileState::invalid:
      return invalid_words(*this);
    case PidFileState::unknown:
      break;
  }
  return fmt::format("Unknown: nothing that can be seen from here tells whether {} is the process that was meant.",
                     process);
}

}  // namespace sessionlock
