#include "verdict/explanation.hpp"

#include <algorithm>

#include <fmt/core.h>
#include <sys/stat.h>

#include "text/duration_text.hpp"
#include "text/mode_text.hpp"
#include "text/printable_text.hpp"

namespace sessionlock {
namespace {

bool lists(const Inspection& inspection, StaleReason reason) {
  return std::find(inspection.reasons.begin(), inspection.reasons.end(), reason) != inspection.reasons.end();
}

/// `pid 41237 on host "build7" (label "nightly")`, as far as it is known.
std::string describe_owner(const Inspection& inspection) {
  const LockRecord& record = inspection.record;
  std::string words = named_pid(inspection) ? owner_words(inspection) : "an unknown process";
  if (record.host) {
    words += fmt::format(" on host {}", quoted_text(*record.host));
  }
  if (record.label) {
    words += fmt::format(" (label {})", quoted_text(*record.label));
  }
  return words;
}

std::string opening(const Inspection& inspection) {
  std::string words;
  switch (inspection.owner) {
    case OwnerState::none:
      words = inspection.basis == Basis::not_a_lock ? "Not a lock" : "Held by nobody that can be named";
      if (inspection.record.label) {
        words += fmt::format(" (label {})", quoted_text(*inspection.record.label));
      }
      break;
    case OwnerState::alive:
      words = "Held by " + describe_owner(inspection);
      break;
    case OwnerState::dead:
      words = "Left behind by " + describe_owner(inspection);
      break;
    case OwnerState::unknown:
      words = "Held, as far as can be told, by " + describe_owner(inspection);
      break;
  }
  if (inspection.age && inspection.record.created_at) {
    words += fmt::format(" since {} ({})", printable_text(*inspection.record.created_at), format_age(*inspection.age));
  } else if (inspection.file_age) {
    words += fmt::format(" (the file is {} old)", format_age(*inspection.file_age));
  }
  return words;
}

std::string evidence_words(const Inspection& inspection) {
  switch (inspection.basis) {
    case Basis::no_file:
      return "there is no lock file";
    case Basis::unreadable:
      return "the lock cannot be read (" + unreadable_words(inspection) + ") and therefore counts as held";
    case Basis::held_here:
      return "this very process holds it";
    case Basis::witness_held:
      return "its owner, or a program that was given the lock, still has the kernel lock on the file";
    case Basis::witness_inherited:
      return fmt::format("that process has ended, but {} and has the kernel lock on the file",
                         inherited_words(inspection));
    case Basis::digits:
      return "the file has no usable pid, but digits in its place, and some process has that number";
    case Basis::not_a_lock:
      return std::string(not_a_lock_words());
    case Basis::no_pid:
      return inspection.removable ? "the file has no usable pid and is too old to be a lock that is being written"
                                  : "the file has no usable pid, but may be a lock that is being written";
    case Basis::orphan_self:
      return "it names this very process, which does not hold it any more";
    case Basis::pid_gone:
      return "no such process runs";
    case Basis::start_differs:
      return "that pid now belongs to a process that started at another time";
    case Basis::verified:
      return "that process runs, and started when the record says";
    case Basis::unverified:
      return "some process has that pid, but the record has no usable start time to tell whether it is the owner";
    case Basis::start_unknown:
      return "some process has that pid, and its start time cannot be compared with the record's";
    case Basis::witness_free:
      return "its owner cannot be seen from here, but no process has the kernel lock on the file any more";
    case Basis::before_this_boot:
      return "it was written before this machine booted";
    case Basis::undecided:
      return "nothing that can be seen from here proves that its owner runs or is gone";
  }
  return "the evidence is unknown";
}

/// What the record's times add: for a lock that is kept, they are what might make somebody doubt it.
std::string time_words(const Inspection& inspection) {
  std::string words;
  const auto add = [&](const std::string& fact) {
    const bool first = words.empty();
    words += first ? (inspection.removable ? ", and " : ", although ") : " and ";
    words += fact;
  };
  if (lists(inspection, StaleReason::too_old)) {
    add("it is older than the age limit");
  }
  // A file that names nobody is not expected to have a time either.
  if (lists(inspection, StaleReason::invalid_created_at) && inspection.owner != OwnerState::none &&
      inspection.basis != Basis::digits) {
    add("its createdAt is no valid time");
  }
  if (lists(inspection, StaleReason::hold_exceeded) && inspection.record.max_hold_ms) {
    add("it was meant for " + format_age(std::chrono::milliseconds{*inspection.record.max_hold_ms}) + " at most");
  }
  return words;
}

std::string outcome_words(const Inspection& inspection) {
  if (inspection.removed) {
    return "it has been removed";
  }
  if (inspection.obstacle) {
    return "but an acquire would fail: " + obstacle_words(inspection);
  }
  switch (inspection.state) {
    case LockState::free:
      return "an acquire would succeed at once";
    case LockState::held:
      return inspection.basis == Basis::not_a_lock ? "an acquire would fail" : "an acquire would wait for it";
    case LockState::pending:
      return "an acquire would wait until it is complete or has been like this for too long";
    case LockState::stale:
      return "an acquire would take it over at once";
  }
  return "what an acquire would do is unknown";
}

}  // namespace

std::optional<pid_t> named_pid(const Inspection& inspection) {
  return inspection.record.pid ? inspection.record.pid : inspection.digits_pid;
}

std::string owner_words(const Inspection& inspection) {
  const auto pid = named_pid(inspection);
  return pid ? fmt::format("pid {}", *pid) : "no usable pid";
}

std::string denied_words(const FileAccess& file) {
  return fmt::format(
      "it belongs to user {} and group {} and has mode {}; ask as that user{}, or make later locks readable: let a "
      "common "
      "group write the session, or lock it with --mode 0644 (SESSIONLOCK_MODE=0644)",
      file.user, file.group, format_mode(file.mode), (file.mode & S_IRGRP) != 0 ? " or group" : "");
}

std::string unreadable_words(const Inspection& inspection) {
  return inspection.cause.message() + (inspection.denied_by ? "; " + denied_words(*inspection.denied_by) : "");
}

std::string_view not_a_lock_words() {
  return "there is something else than a lock in it, which is left alone: move it away, or use another name";
}

std::string_view inherited_words(const Inspection& inspection) {
  return inspection.basis == Basis::witness_inherited ? "a program it gave the lock to runs on" : std::string_view{};
}

std::string obstacle_words(const Inspection& inspection) {
  if (!inspection.obstacle) {
    return {};
  }
  const std::string& detail = inspection.obstacle_detail;
  return inspection.obstacle.message() + (detail.empty() ? "" : fmt::format(" ({})", detail));
}

std::string_view to_string(StaleReason reason) {
  switch (reason) {
    case StaleReason::missing_pid:
      return "missing-pid";
    case StaleReason::dead_pid:
      return "dead-pid";
    case StaleReason::recycled_pid:
      return "recycled-pid";
    case StaleReason::previous_boot:
      return "previous-boot";
    case StaleReason::orphaned:
      return "orphaned";
    case StaleReason::orphan_self_pid:
      return "orphan-self-pid";
    case StaleReason::invalid_created_at:
      return "invalid-createdAt";
    case StaleReason::too_old:
      return "too-old";
    case StaleReason::hold_exceeded:
      return "hold-exceeded";
  }
  return "unknown";
}

std::string_view to_string(LockState state) {
  switch (state) {
    case LockState::free:
      return "free";
    case LockState::held:
      return "held";
    case LockState::pending:
      return "pending";
    case LockState::stale:
      return "stale";
  }
  return "unknown";
}

std::string_view to_string(OwnerState owner) {
  switch (owner) {
    case OwnerState::none:
      return "none";
    case OwnerState::alive:
      return "alive";
    case OwnerState::dead:
      return "dead";
    case OwnerState::unknown:
      return "unknown";
  }
  return "unknown";
}

std::string Inspection::explanation() const {
  if (basis == Basis::no_file) {
    return fmt::format("Not locked: {}; {}.", evidence_words(*this), outcome_words(*this));
  }
  return fmt::format("{}: {}{}; {}.", opening(*this), evidence_words(*this), time_words(*this), outcome_words(*this));
}

}  // namespace sessionlock
