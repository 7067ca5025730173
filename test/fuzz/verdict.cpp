// From the bytes of a lock file and any evidence whatever to the verdict: what must hold for all of them.
//
// An input begins with the evidence and the policy, a byte or two each, and ends with the lock file. `@B@`, `@P@`,
// `@T@`, `@W@` and `@V@` in it stand for the observer's own boot id, namespaces and the file's witness in its two
// forms, because a fuzzer would not guess them.

#include <algorithm>
#include <chrono>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include <sessionlock/staleness.hpp>

#include "record/lock_text.hpp"
#include "support/json_oracle.hpp"
#include "support/target.hpp"
#include "verdict/classify.hpp"

using namespace std::chrono_literals;
using sessionlock::Basis;
using sessionlock::Comparison;
using sessionlock::Evidence;
using sessionlock::Inspection;
using sessionlock::LockForm;
using sessionlock::LockRecord;
using sessionlock::LockState;
using sessionlock::LockText;
using sessionlock::OwnerState;
using sessionlock::PidProbe;
using sessionlock::RemovalPolicy;
using sessionlock::StaleReason;
using sessionlock::WitnessState;
using sessionlock::fuzz::Input;
using std::chrono::milliseconds;

namespace {

constexpr std::string_view k_boot = "3f2b6c1e-7d0a-4e57-9a35-1d4c8f0b2a66";
constexpr sessionlock::FileIdentity k_file{2049, 1573042};
constexpr sessionlock::WallTime k_now{std::chrono::sys_days{std::chrono::year{2026} / 11 / 20}};

std::string with_names(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const std::string_view here = text.substr(i, 3);
    const std::string_view name = here == "@B@"   ? k_boot
                                  : here == "@P@" ? "4026531836"
                                  : here == "@T@" ? "4026531834"
                                  : here == "@W@" ? "ofd2:2049:1573042"
                                  : here == "@V@" ? "ofd:2049:1573042"
                                                  : std::string_view{};
    if (name.empty()) {
      out += text[i];
    } else {
      out += name;
      i += 2;
    }
  }
  return out;
}

milliseconds any_duration(Input& input) {
  switch (input.byte() % 6) {
    case 0:
      return 0ms;
    case 1:
      return milliseconds::max();
    case 2:
      return milliseconds::min();
    case 3:
      return milliseconds{static_cast<std::int64_t>(input.number(8))};
    default:
      return std::chrono::seconds{input.number(2)};
  }
}

RemovalPolicy any_policy(Input& input) {
  RemovalPolicy policy;
  policy.stale_after = any_duration(input);
  policy.malformed_grace = any_duration(input);
  policy.aged_unverified = input.flag() ? sessionlock::AgedUnverified::keep : sessionlock::AgedUnverified::reclaim;
  policy.unknown_owner = input.flag() ? sessionlock::UnknownOwner::reclaim_when_aged : sessionlock::UnknownOwner::hold;
  if (input.flag()) {
    policy.stale_mtime = any_duration(input);
  }
  return policy;
}

sessionlock::Observer any_observer(Input& input) {
  const unsigned known = input.byte();
  sessionlock::Observer observer;
  observer.pid = 4711;
  observer.start_time_ticks = 8812345;
  observer.boot_id = (known & 1U) != 0 ? std::string_view{} : k_boot;
  observer.pid_namespace = (known & 2U) != 0 ? 0 : 4026531836;
  observer.time_namespace = (known & 4U) != 0 ? 0 : 4026531834;
  observer.time_namespaces_absent = (known & 8U) != 0;
  return observer;
}

/// Gathered as `inspector` does, from a kernel that answers anything at all.
Evidence any_evidence(Input& input, const LockText& text) {
  const LockRecord& record = text.record;
  const auto observer = any_observer(input);
  Evidence evidence;
  evidence.now = k_now;
  const unsigned trouble = input.byte();
  if (trouble % 16 == 1) {
    evidence.unreadable = std::make_error_code(std::errc::permission_denied);
    return evidence;
  }
  if (trouble % 16 == 2 && record.witness) {
    evidence.witness_failure = std::make_error_code(std::errc::io_error);
  }
  evidence.held_here = trouble % 16 == 3;
  const auto locality = sessionlock::Locality{input.byte() % 3};
  evidence.local_file_system = record.witness && locality != sessionlock::Locality::unknown;
  const auto query =
      evidence.witness_failure ? sessionlock::WitnessQuery::failed : sessionlock::WitnessQuery{input.byte() % 4};
  const bool was_moved = needs_lock_list(record, query, k_file, observer, locality);
  const auto list = sessionlock::ListQuery{input.byte() % 4};
  evidence.witness = judge_witness(record, query, k_file, observer, locality, list);
  FUZZ_CHECK((query == sessionlock::WitnessQuery::write_locked) == (evidence.witness == WitnessState::held));
  FUZZ_CHECK(evidence.witness != WitnessState::free || evidence.local_file_system);
  FUZZ_CHECK(evidence.witness != WitnessState::free || record.witness == "ofd2:2049:1573042" ||
             (record.witness == "ofd:2049:1573042" && record.boot_id == observer.boot_id) ||
             (was_moved && list == sessionlock::ListQuery::not_listed && record.boot_id == observer.boot_id &&
              record.witness->ends_with(":1573042")));
  relate(evidence, record, observer);
  evidence.can_be_lock = text.form != LockForm::other;
  if (text.digits_pid && evidence.comparison != Comparison::none) {
    evidence.digits = PidProbe{input.byte() % 3};
    evidence.own_digits = input.flag();
  }
  if (evidence.own_pid || evidence.own_digits) {
    evidence.own_age = std::max(any_duration(input), 0ms);
  }
  if (record.pid && evidence.comparison != Comparison::none) {
    evidence.pid = PidProbe{input.byte() % 3};
    const unsigned start = input.byte() % 4;
    if (evidence.pid == PidProbe::exists && start > 0) {
      evidence.observed_start_ticks = start == 1 ? record.starttime.value_or(1) : input.number(8);
    }
  }
  evidence.older_than_boot = evidence.other_boot && evidence.local_file_system && input.flag();
  if (input.flag()) {
    evidence.file_age = std::max(any_duration(input), 0ms);
  }
  return evidence;
}

/// Nothing that this library would ever have to remove: no lock's text, and nobody named by it.
bool is_no_lock(const LockRecord& record, const Evidence& evidence) {
  return !record.pid && !evidence.can_be_lock && evidence.digits != PidProbe::exists;
}

bool says_alive(const LockRecord& record, const Evidence& evidence) {
  const bool same_process = record.starttime && evidence.observed_start_ticks == record.starttime;
  const bool left_by_exec = evidence.own_pid && same_process && evidence.witness == WitnessState::free;
  return evidence.held_here || evidence.witness == WitnessState::held || (same_process && !left_by_exec);
}

void check_verdict(const Inspection& found, const LockRecord& record, const Evidence& evidence,
                   const RemovalPolicy& policy) {
  const bool mtime_decides = policy.stale_mtime && evidence.file_age && *evidence.file_age > *policy.stale_mtime;
  if (evidence.unreadable || evidence.witness_failure || evidence.held_here || is_no_lock(record, evidence)) {
    FUZZ_CHECK(!found.removable);
  }
  if (says_alive(record, evidence) && !evidence.unreadable && !evidence.witness_failure) {
    // Only without a usable pid can it be that nobody is named.
    FUZZ_CHECK(found.owner == OwnerState::alive || (!record.pid && !evidence.held_here));
    FUZZ_CHECK(!found.removable || mtime_decides);
  }
  if (found.removable && !mtime_decides) {
    const bool proven = found.owner == OwnerState::dead;
    const bool aged = found.basis == Basis::no_pid || found.basis == Basis::digits ||
                      found.basis == Basis::unverified || found.basis == Basis::undecided;
    FUZZ_CHECK(proven != aged);
    FUZZ_CHECK(found.basis != Basis::no_pid || evidence.file_age.value_or(0ms) > std::max(policy.malformed_grace, 0ms));
    FUZZ_CHECK(found.basis != Basis::digits || evidence.file_age.value_or(0ms) > std::max(policy.stale_after, 0ms));
    FUZZ_CHECK(found.basis != Basis::digits || policy.aged_unverified == sessionlock::AgedUnverified::reclaim);
    FUZZ_CHECK(found.basis != Basis::undecided || policy.unknown_owner == sessionlock::UnknownOwner::reclaim_when_aged);
    FUZZ_CHECK(found.basis != Basis::unverified || policy.aged_unverified == sessionlock::AgedUnverified::reclaim);
  }
  FUZZ_CHECK((found.owner == OwnerState::dead) <= (evidence.witness != WitnessState::held));
  FUZZ_CHECK(found.removable == (found.state == LockState::stale));
  FUZZ_CHECK(found.state != LockState::free && !found.removed);
  FUZZ_CHECK(!found.pid_alive || (record.pid && evidence.pid == PidProbe::exists));
  FUZZ_CHECK(std::set<StaleReason>(found.reasons.begin(), found.reasons.end()).size() == found.reasons.size());
}

/// One line, of whole characters, that ends like a sentence.
void check_words(Inspection found) {
  for (const bool removed : {false, true}) {
    found.removed = removed;
    const std::string words = found.explanation();
    FUZZ_CHECK(words.size() > 10 && words.ends_with('.'));
    FUZZ_CHECK(std::none_of(words.begin(), words.end(),
                            [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == '\x7f'; }));
    FUZZ_CHECK(sessionlock::fuzz::is_utf8(words));
  }
}

/// When age will decide is said to the millisecond.
void check_due(const Inspection& found, const LockRecord& record, const Evidence& evidence,
               const RemovalPolicy& policy) {
  const auto due = sessionlock::time_until_removable(found, policy);
  FUZZ_CHECK(!due || !found.removable);
  // Where a clock would run out, nothing is promised; nor where `createdAt` lies in the future and passes meanwhile.
  constexpr milliseconds k_far = std::chrono::hours{24 * 365 * 1000};
  const auto created_at = record.created_at ? sessionlock::parse_rfc3339(*record.created_at) : std::nullopt;
  const bool lies_ahead = created_at && *created_at > evidence.now;
  if (found.removable || !evidence.file_age || *evidence.file_age > k_far || (found.age && *found.age > k_far) ||
      (due && *due > k_far) || lies_ahead) {
    return;
  }
  const auto at = [&](milliseconds later) {
    Evidence then = evidence;
    then.now += later;
    *then.file_age += later;
    if (then.own_age) {
      *then.own_age = *then.own_age > k_far ? *then.own_age : *then.own_age + later;
    }
    return classify(record, then, policy).removable;
  };
  if (due) {
    FUZZ_CHECK(at(*due));
    FUZZ_CHECK(*due == 0ms || !at(*due - 1ms));
  } else {
    FUZZ_CHECK(!at(k_far) || policy.stale_after > k_far || policy.malformed_grace > k_far ||
               policy.stale_mtime.value_or(0ms) > k_far);
  }
}

/// A start time that is none changes no verdict: it is as if there were none.
void check_malformed_start(const LockRecord& record, const Evidence& evidence, const RemovalPolicy& policy,
                           std::uint8_t which) {
  LockRecord without = record;
  without.starttime.reset();
  std::string text = format_lock_record(without);
  if (text.size() > sessionlock::k_lock_record_bytes_max - 100) {
    return;
  }
  constexpr std::string_view k_malformed[] = {"null",
                                              "true",
                                              "-1",
                                              "-0",
                                              "123.5",
                                              "1e400",
                                              "1e-1",
                                              "\"8812345\"",
                                              "99999999999999999999999",
                                              "[8812345]",
                                              "{}",
                                              "\"\"",
                                              "1.5e0",
                                              "-1e0",
                                              "18446744073709551616",
                                              "9007199254740993.0",
                                              "{\"starttime\": 8812345}"};
  const bool is_empty = text.find('"') == std::string::npos;
  text.insert(
      text.rfind('\n', text.size() - 2) == std::string::npos ? text.find('}') : text.rfind("\n}"),
      std::string(is_empty ? "" : ",") + "\"starttime\": " + std::string(k_malformed[which % std::size(k_malformed)]));
  const LockRecord malformed = sessionlock::parse_lock_record(text);
  FUZZ_CHECK(malformed == without);
  const Inspection a = classify(malformed, evidence, policy);
  const Inspection b = classify(without, evidence, policy);
  FUZZ_CHECK(a.removable == b.removable && a.owner == b.owner && a.basis == b.basis && a.reasons == b.reasons);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  const RemovalPolicy policy = any_policy(input);
  const std::uint8_t which = input.byte();
  // The evidence depends on the record, and stands before it: 40 bytes are enough for both.
  Input for_evidence(data + std::min<std::size_t>(size, 40) - std::min<std::size_t>(size, 20),
                     std::min<std::size_t>(size, 20));
  const std::string text = with_names(sessionlock::fuzz::text_of(data, size).substr(std::min<std::size_t>(size, 40)));
  const LockText read = sessionlock::read_lock_text(text);
  const LockRecord& record = read.record;
  const Evidence evidence = any_evidence(for_evidence, read);
  const Inspection found = classify(record, evidence, policy);
  check_verdict(found, record, evidence, policy);
  check_words(found);
  check_due(found, record, evidence, policy);
  check_malformed_start(record, evidence, policy, which);
  return 0;
}
