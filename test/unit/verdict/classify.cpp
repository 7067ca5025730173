#include "verdict/classify.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

using namespace sessionlock;
using namespace std::chrono_literals;
using std::chrono::milliseconds;

namespace {

const WallTime k_now = *parse_rfc3339("2026-11-20T12:00:00Z");
const std::error_code k_no_access = std::make_error_code(std::errc::permission_denied);
const std::error_code k_io_error = std::make_error_code(std::errc::io_error);

constexpr std::uint64_t k_start = 98765;
constexpr std::string_view k_boot = "6f1f3b1e-6a8a-4c53-9c3c-0d6c3a2f8a11";
constexpr FileIdentity k_file{2049, 13107713};

std::string created(milliseconds ago) {
  return format_rfc3339(k_now - ago);
}

/// What another program writes.
LockRecord foreign_record(milliseconds age = 12s) {
  LockRecord record;
  record.pid = 41237;
  record.created_at = created(age);
  record.starttime = k_start;
  return record;
}

/// What this library writes.
LockRecord own_record(milliseconds age = 12s) {
  LockRecord record = foreign_record(age);
  record.lock_id = "00112233445566778899aabbccddeeff";
  record.boot_id = k_boot;
  record.pid_namespace = 4026531836;
  record.time_namespace = 4026531834;
  record.witness = "ofd2:2049:13107713";
  return record;
}

Observer observer() {
  Observer observer;
  observer.pid = 500;
  observer.start_time_ticks = 1000;
  observer.boot_id = k_boot;
  observer.pid_namespace = 4026531836;
  observer.time_namespace = 4026531834;
  return observer;
}

/// Evidence about a running process with the recorded start time.
Evidence running(Comparison comparison) {
  Evidence evidence;
  evidence.comparison = comparison;
  evidence.pid = PidProbe::exists;
  evidence.observed_start_ticks = k_start;
  evidence.local_file_system = true;
  evidence.now = k_now;
  return evidence;
}

bool lists(const Inspection& inspection, StaleReason reason) {
  return std::find(inspection.reasons.begin(), inspection.reasons.end(), reason) != inspection.reasons.end();
}

using Reasons = std::vector<StaleReason>;

// --- The verdict table once more, written from docs/protocol.md and not from the code -------------------------------

/// One combination of everything a verdict can depend on.
struct Case {
  bool unreadable, witness_query_failed, in_own_table;
  WitnessState witness;
  Comparison comparison;
  /// Start times that differ belong to two processes: so but for another program's record in another time namespace.
  bool other_start_counts;
  PidProbe probe;
  bool record_has_pid;
  // What stands in the place of the pid, where the record has none.
  bool can_be_lock;
  PidProbe digits;
  bool own_digits;
  /// How long the observer has run.
  std::optional<milliseconds> own_age;
  std::optional<std::uint64_t> record_start, observed_start;
  bool own_pid, boot_differs, declares_witness, local, before_boot;
  std::optional<milliseconds> file_age;
  std::optional<milliseconds> created_ago;
  AgedUnverified aged_unverified;
  UnknownOwner unknown_owner;
};

constexpr milliseconds k_grace = 30s;
constexpr milliseconds k_stale_after = 30min;
/// A `createdAt` so far in the future that it stays there in whatever is tried.
constexpr milliseconds k_ahead = -20'000h;

/// Of a `createdAt` in the future, the file's.
std::optional<milliseconds> age(const Case& c) {
  return c.created_ago && *c.created_ago < 0ms ? c.file_age : c.created_ago;
}
/// A `createdAt` in the past makes a lock old only if its file is old as well.
bool too_old(const Case& c) {
  return age(c) && *age(c) > k_stale_after && !(c.file_age && *c.file_age <= k_stale_after);
}
bool aged(const Case& c) {
  return too_old(c) || (!c.created_ago && c.file_age && *c.file_age > k_stale_after);
}
bool comparable(const Case& c) {
  return c.comparison == Comparison::own || c.comparison == Comparison::foreign;
}
bool starts_known(const Case& c) {
  return c.record_start && c.observed_start;
}

bool start_is_anothers(const Case& c) {
  return starts_known(c) && *c.record_start != *c.observed_start && c.other_start_counts;
}
/// They differ, but may be counted in two time namespaces.
bool starts_tell_nothing(const Case& c) {
  return starts_known(c) && *c.record_start != *c.observed_start && !c.other_start_counts;
}

/// The file was last written before the observer started, by more than the clocks may differ.
bool older_than_observer(const Case& c) {
  return c.file_age && c.own_age && *c.file_age > *c.own_age + 2s;
}

constexpr auto never = [](const Case&) { return false; };
constexpr auto at_once = [](const Case&) { return true; };

struct Row {
  const char* name;
  bool (*matches)(const Case&);
  Basis basis;
  OwnerState owner;
  bool (*removable)(const Case&);
  std::optional<StaleReason> reason;
};

const Row k_table[] = {
    {"1 unreadable",
     [](const Case& c) { return c.unreadable || c.witness_query_failed; },
     Basis::unreadable,
     OwnerState::unknown,
     never,
     {}},
    {"2 in this process's table",
     [](const Case& c) { return c.in_own_table; },
     Basis::held_here,
     OwnerState::alive,
     never,
     {}},
    {"3 W held, the recorded process gone or another",
     [](const Case& c) {
       return c.witness == WitnessState::held && c.record_has_pid && comparable(c) &&
              (c.probe == PidProbe::gone || start_is_anothers(c));
     },
     Basis::witness_inherited,
     OwnerState::alive,
     never,
     {}},
    {"3 W held",
     [](const Case& c) { return c.witness == WitnessState::held; },
     Basis::witness_held,
     OwnerState::alive,
     never,
     {}},
    {"4a no usable pid, digits of a process that exists",
     [](const Case& c) {
       return !c.record_has_pid && c.digits == PidProbe::exists && (!c.own_digits || !older_than_observer(c));
     },
     Basis::digits, OwnerState::alive,
     [](const Case& c) {
       return c.file_age && *c.file_age > k_stale_after && c.aged_unverified == AgedUnverified::reclaim;
     },
     StaleReason::missing_pid},
    {"4b no usable pid, and no lock's text", [](const Case& c) { return !c.record_has_pid && !c.can_be_lock; },
     Basis::not_a_lock, OwnerState::none, never, StaleReason::missing_pid},
    {"4 no usable pid", [](const Case& c) { return !c.record_has_pid; }, Basis::no_pid, OwnerState::none,
     [](const Case& c) { return c.file_age && *c.file_age > k_grace; }, StaleReason::missing_pid},
    {"5 our own pid and start time, W free",
     [](const Case& c) {
       return comparable(c) && c.own_pid && starts_known(c) && c.record_start == c.observed_start &&
              c.witness == WitnessState::free;
     },
     Basis::orphan_self, OwnerState::dead, at_once, StaleReason::orphan_self_pid},
    {"5b another program's record without a usable start time, our own pid, the file older than we are",
     [](const Case& c) {
       return c.comparison == Comparison::foreign && (!c.record_start || starts_tell_nothing(c)) && c.own_pid &&
              older_than_observer(c);
     },
     Basis::orphan_self, OwnerState::dead, at_once, StaleReason::orphan_self_pid},
    {"6 pid gone", [](const Case& c) { return comparable(c) && c.probe == PidProbe::gone; }, Basis::pid_gone,
     OwnerState::dead, at_once, StaleReason::dead_pid},
    {"7 start times different", [](const Case& c) { return comparable(c) && start_is_anothers(c); },
     Basis::start_differs, OwnerState::dead, at_once, StaleReason::recycled_pid},
    {"8 start times equal",
     [](const Case& c) { return comparable(c) && starts_known(c) && *c.record_start == *c.observed_start; },
     Basis::verified,
     OwnerState::alive,
     never,
     {}},
    {"9 another program's record without start time, pid exists",
     [](const Case& c) {
       return c.comparison == Comparison::foreign && !c.record_start && c.probe == PidProbe::exists;
     },
     Basis::unverified,
     OwnerState::alive,
     [](const Case& c) { return aged(c) && c.aged_unverified == AgedUnverified::reclaim; },
     {}},
    {"9b pid exists, start time unknown",
     [](const Case& c) { return comparable(c) && c.probe == PidProbe::exists && !starts_tell_nothing(c); },
     Basis::start_unknown,
     OwnerState::alive,
     never,
     {}},
    {"10 not comparable, W free", [](const Case& c) { return !comparable(c) && c.witness == WitnessState::free; },
     Basis::witness_free, OwnerState::dead, at_once, StaleReason::orphaned},
    {"11 boot differs, witness declared, written before this boot",
     [](const Case& c) { return c.boot_differs && c.declares_witness && c.local && c.before_boot; },
     Basis::before_this_boot, OwnerState::dead, at_once, StaleReason::previous_boot},
    {"12 everything else",
     [](const Case&) { return true; },
     Basis::undecided,
     OwnerState::unknown,
     [](const Case& c) { return aged(c) && c.unknown_owner == UnknownOwner::reclaim_when_aged; },
     {}},
};

const Row& first_match(const Case& c) {
  return *std::find_if(std::begin(k_table), std::end(k_table), [&](const Row& row) { return row.matches(c); });
}

template <class Body>
void for_each_case(Body body) {
  using Start = std::optional<std::uint64_t>;
  using Age = std::optional<milliseconds>;
  Case c{};
  const auto each = [](auto& member, auto values, auto next) {
    for (const auto& value : values) {
      member = value;
      next();
    }
  };
  const std::vector<bool> no_yes{false, true};
  const auto each_flag = [&](bool& member, auto next) { each(member, no_yes, next); };
  // Who holds it ...
  const auto over_policies = [&] {
    each(c.aged_unverified, std::vector{AgedUnverified::reclaim, AgedUnverified::keep}, [&] {
      each(c.unknown_owner, std::vector{UnknownOwner::hold, UnknownOwner::reclaim_when_aged},
           [&] { body(std::as_const(c)); });
    });
  };
  const auto over_ages = [&] {
    each(c.file_age, std::vector<Age>{{}, 30s, 31s, 31min}, [&] {
      each(c.created_ago, std::vector<Age>{{}, 12s, 31min, k_ahead}, over_policies);
    });
  };
  const auto over_places = [&] {
    each_flag(c.boot_differs, [&] {
      each_flag(c.declares_witness, [&] { each_flag(c.local, [&] { each_flag(c.before_boot, over_ages); }); });
    });
  };
  const std::vector<Age> own_ages{{}, 0s, 100h};
  // The process that the record names, or what stands in its place.
  const auto over_named = [&] {
    each(c.probe, std::vector{PidProbe::unknown, PidProbe::exists, PidProbe::gone}, [&] {
      each(c.record_start, std::vector<Start>{{}, k_start}, [&] {
        each(c.observed_start, std::vector<Start>{{}, k_start, k_start + 1},
             [&] { each_flag(c.own_pid, [&] { each(c.own_age, own_ages, over_places); }); });
      });
    });
  };
  const auto over_unnamed = [&] {
    each_flag(c.can_be_lock, [&] {
      each(c.digits, std::vector{PidProbe::unknown, PidProbe::exists, PidProbe::gone},
           [&] { each_flag(c.own_digits, [&] { each(c.own_age, own_ages, over_places); }); });
    });
  };
  // What the last record said goes; what is known of the file stays.
  const auto forget_record = [&] {
    Case kept{};
    kept.unreadable = c.unreadable;
    kept.witness_query_failed = c.witness_query_failed;
    kept.in_own_table = c.in_own_table;
    kept.witness = c.witness;
    kept.comparison = c.comparison;
    kept.other_start_counts = true;
    c = kept;
  };
  const auto over_records = [&] {
    each(c.comparison, std::vector{Comparison::none, Comparison::own, Comparison::foreign}, [&] {
      forget_record();
      over_unnamed();
      for (const bool counts : {true, false}) {
        forget_record();
        c.can_be_lock = true;
        c.record_has_pid = true;
        c.other_start_counts = counts;
        if (counts || c.comparison == Comparison::foreign) {
          over_named();
        }
      }
    });
  };
  // ... and whether that can be seen at all.
  for (const int unread : {0, 1, 2}) {
    c.unreadable = unread == 1;
    c.witness_query_failed = unread == 2;
    each_flag(c.in_own_table, [&] {
      each(c.witness, std::vector{WitnessState::unknown, WitnessState::free, WitnessState::held}, over_records);
    });
  }
}

LockRecord record_of(const Case& c) {
  LockRecord record;
  if (c.record_has_pid) {
    record.pid = 41237;
  }
  record.starttime = c.record_start;
  if (c.declares_witness) {
    record.witness = "ofd2:2049:13107713";
  }
  if (c.created_ago) {
    static const std::map<milliseconds, std::string> texts{
        {12s, created(12s)}, {31min, created(31min)}, {k_ahead, created(k_ahead)}};
    record.created_at = texts.at(*c.created_ago);
  }
  return record;
}

Evidence evidence_of(const Case& c) {
  Evidence evidence;
  evidence.unreadable = c.unreadable ? k_no_access : std::error_code{};
  evidence.witness_failure = c.witness_query_failed ? k_io_error : std::error_code{};
  evidence.held_here = c.in_own_table;
  evidence.witness = c.witness;
  evidence.comparison = c.comparison;
  evidence.other_start_counts = c.other_start_counts;
  evidence.can_be_lock = c.can_be_lock;
  evidence.digits = c.digits;
  evidence.own_digits = c.own_digits;
  evidence.own_age = c.own_age;
  evidence.pid = c.probe;
  evidence.observed_start_ticks = c.observed_start;
  evidence.own_pid = c.own_pid;
  evidence.other_boot = c.boot_differs;
  evidence.local_file_system = c.local;
  evidence.older_than_boot = c.before_boot;
  evidence.file_age = c.file_age;
  evidence.now = k_now;
  return evidence;
}

StalePolicy policy_of(const Case& c) {
  StalePolicy policy;
  policy.stale_after = k_stale_after;
  policy.malformed_grace = k_grace;
  policy.aged_unverified = c.aged_unverified;
  policy.unknown_owner = c.unknown_owner;
  return policy;
}

Inspection verdict_on(const Case& c) {
  return classify(record_of(c), evidence_of(c), policy_of(c));
}

bool matches_table(const Case& c, const Inspection& inspection) {
  const Row& row = first_match(c);
  const bool removable = row.removable(c);
  const bool pending = row.basis == Basis::no_pid && !removable;
  const LockState state = pending ? LockState::pending : removable ? LockState::stale : LockState::held;
  Reasons reasons;
  if (row.reason) {
    reasons.push_back(*row.reason);
  }
  if (!c.unreadable && (!c.created_ago || too_old(c))) {
    reasons.push_back(c.created_ago ? StaleReason::too_old : StaleReason::invalid_created_at);
  }
  const bool pid_alive = c.record_has_pid && comparable(c) && c.probe == PidProbe::exists;
  return inspection.basis == row.basis && inspection.owner == row.owner && inspection.removable == removable &&
         inspection.state == state && inspection.reasons == reasons && inspection.pid_alive == pid_alive &&
         inspection.age == age(c) && !inspection.removed && inspection.record == record_of(c);
}

/// Whether a lock that is kept would be removable if its start time were malformed.
bool freed_by_malformed_start(const Case& c, const Inspection& inspection) {
  // Without a start time the record is another program's at best, where age may decide; fresh means it does not. A
  // comparable record names this boot or none, so that evidence of another boot is left out.
  // Nor is there any of a record that names the observer and is older than it, since that has its start time wrong.
  if (!c.record_start || c.created_ago != milliseconds{12s} || inspection.removable ||
      (comparable(c) && c.boot_differs) || (c.own_pid && older_than_observer(c))) {
    return false;
  }
  Case malformed = c;
  malformed.record_start.reset();
  return verdict_on(malformed).removable;
}

bool depends_on_file_age(const Case& c, const Inspection& inspection) {
  Case without = c;
  without.file_age.reset();
  return verdict_on(without).removable != inspection.removable;
}

/// The same case, looked at later.
bool removable_after(const Case& c, milliseconds wait) {
  Evidence evidence = evidence_of(c);
  evidence.now += wait;
  for (auto* const age : {&evidence.file_age, &evidence.own_age}) {
    if (*age) {
      **age += wait;
    }
  }
  return classify(record_of(c), evidence, policy_of(c)).removable;
}

bool due_in_time(const Case& c, const Inspection& inspection) {
  const auto due = time_until_removable(inspection, policy_of(c));
  if (!due) {
    return removable_after(c, 10'000h) == inspection.removable;
  }
  return removable_after(c, *due) && !removable_after(c, *due - 1ms);
}

bool is_one_sentence(const std::string& text) {
  return text.size() > 20 && text.back() == '.' && text.find('\n') == std::string::npos;
}

/// As the table has it, or removable also because the file is older than `stale_mtime`: in all rows but 1, 2 and 4b.
bool matches_table_with_mtime(const Case& c, const Inspection& without, const Inspection& with, milliseconds limit) {
  const bool spared = c.unreadable || c.witness_query_failed || c.in_own_table || without.basis == Basis::not_a_lock;
  const bool overruled = !spared && c.file_age && *c.file_age > limit;
  Reasons reasons = without.reasons;
  if (overruled && !lists(without, StaleReason::too_old)) {
    reasons.push_back(StaleReason::too_old);
  }
  const bool removable = without.removable || overruled;
  return with.basis == without.basis && with.owner == without.owner && with.removable == removable &&
         (with.state == LockState::stale) == removable && with.reasons == reasons;
}

/// How often each thing that must not happen did, over all combinations; they are gone through once.
struct Survey {
  std::size_t cases{}, not_as_in_table{}, protected_but_removable{}, verified_but_removable{}, dead_but_kept{},
      freed_by_malformed_start{}, file_age_needed_unasked{}, due_at_another_time{}, not_explained{}, wrong_by_mtime{},
      freed_by_mtime{};
  std::set<std::string_view> rows_reached{};
  std::set<Basis> called_dead{}, removable_without_proof{};
  std::string first_wrong{};
};

Survey take_survey() {
  Survey survey;
  const auto count = [](std::size_t& number, bool happened) { number += happened ? std::size_t{1} : 0; };
  for_each_case([&](const Case& c) {
    const Inspection inspection = verdict_on(c);
    const bool dead = inspection.owner == OwnerState::dead;
    const bool protected_lock =
        c.witness == WitnessState::held || c.in_own_table || c.unreadable || c.witness_query_failed;
    const bool verified = comparable(c) && c.probe == PidProbe::exists && c.record_has_pid && starts_known(c) &&
                          c.record_start == c.observed_start;
    ++survey.cases;
    survey.rows_reached.insert(first_match(c).name);
    if (!matches_table(c, inspection) && survey.not_as_in_table++ == 0) {
      survey.first_wrong = std::string{"row "} + first_match(c).name + ", got: " + inspection.explanation();
    }
    count(survey.protected_but_removable, protected_lock && inspection.removable);
    count(survey.verified_but_removable, verified && inspection.removable && inspection.basis != Basis::orphan_self);
    count(survey.dead_but_kept, dead && !inspection.removable);
    count(survey.freed_by_malformed_start, freed_by_malformed_start(c, inspection));
    count(survey.file_age_needed_unasked,
          !needs_file_age(record_of(c), evidence_of(c)) && depends_on_file_age(c, inspection));
    // Every seventh is enough for what costs more: no dimension of the space has a length that seven divides.
    if (survey.cases % 7 == 0) {
      count(survey.due_at_another_time, !due_in_time(c, inspection));
      count(survey.not_explained, !is_one_sentence(inspection.explanation()));
    }
    // None of what decides over the mtime is in the policies, so one of their four combinations will do.
    if (c.aged_unverified == AgedUnverified::keep && c.unknown_owner == UnknownOwner::hold) {
      RemovalPolicy policy = policy_of(c);
      policy.stale_mtime = k_grace;
      const Inspection overruled = classify(record_of(c), evidence_of(c), policy);
      count(survey.wrong_by_mtime, !matches_table_with_mtime(c, inspection, overruled, k_grace));
      count(survey.freed_by_mtime, overruled.removable && !inspection.removable);
    }
    if (dead) {
      survey.called_dead.insert(inspection.basis);
    } else if (inspection.removable) {
      survey.removable_without_proof.insert(inspection.basis);
    }
  });
  return survey;
}

const Survey& survey() {
  static const Survey taken = take_survey();
  return taken;
}

/// What is known before anything was asked.
Evidence at_now() {
  Evidence evidence;
  evidence.now = k_now;
  return evidence;
}

}  // namespace

TEST_CASE("every combination of evidence and policy gets the verdict of the first matching row of the table") {
  MESSAGE(survey().cases << " combinations");
  CHECK_MESSAGE(survey().not_as_in_table == 0, survey().first_wrong);
  CHECK(survey().cases > 1'000'000);
  // A row that is never reached would be checked by nothing.
  CHECK(survey().rows_reached.size() == std::size(k_table));
}

TEST_CASE("no combination removes a lock whose witness is held, that this process holds, or that cannot be read") {
  CHECK(survey().protected_but_removable == 0);
}

TEST_CASE("no combination removes a lock of a process with the recorded start time, except an orphan of this process") {
  CHECK(survey().verified_but_removable == 0);
}

TEST_CASE("only rows 5, 6, 7, 10 and 11 call an owner dead, and then the lock is removable") {
  CHECK(survey().called_dead == std::set<Basis>{Basis::orphan_self, Basis::pid_gone, Basis::start_differs,
                                                Basis::witness_free, Basis::before_this_boot});
  CHECK(survey().dead_but_kept == 0);
}

TEST_CASE(
    "a malformed start time never makes a lock removable that would be kept with a good one and a fresh createdAt") {
  CHECK(survey().freed_by_malformed_start == 0);
}

TEST_CASE("age alone removes only what nobody can be named for, and what a policy gives up") {
  CHECK(survey().removable_without_proof ==
        std::set<Basis>{Basis::digits, Basis::no_pid, Basis::unverified, Basis::undecided});
}

TEST_CASE("an mtime limit overrules every owner but this process, and no policy of a session sets it") {
  CHECK(survey().wrong_by_mtime == 0);
  CHECK(survey().freed_by_mtime > 0);
  CHECK_FALSE(RemovalPolicy{StalePolicy{}}.stale_mtime);
}

TEST_CASE("an mtime limit makes the file's age needed, and tells when it will be reached") {
  RemovalPolicy policy;
  policy.stale_mtime = 60s;
  CHECK(needs_file_age(own_record(), at_now(), policy));
  CHECK_FALSE(needs_file_age(own_record(), at_now()));
  Evidence evidence = running(Comparison::own);
  evidence.file_age = 20s;
  const Inspection held = classify(own_record(), evidence, policy);
  CHECK(held.state == LockState::held);
  CHECK(time_until_removable(held, policy) == 40s + 1ms);
  CHECK_FALSE(time_until_removable(held, {}));
  evidence.file_age = 60s + 1ms;
  CHECK(classify(own_record(), evidence, policy).state == LockState::stale);
}

TEST_CASE(
    "a limit by the file's age counts beside the one that holds anyway, and not where nothing may be taken away") {
  RemovalPolicy policy;
  policy.stale_mtime = 60s;
  Evidence evidence;
  evidence.now = k_now;
  evidence.file_age = 10s;
  const Inspection nobody = classify({}, evidence, policy);
  CHECK(time_until_removable(nobody, policy) == 20s + 1ms);
  policy.stale_mtime = 15s;
  CHECK(time_until_removable(nobody, policy) == 5s + 1ms);
  policy.malformed_grace = milliseconds::max();
  CHECK(time_until_removable(nobody, policy) == 5s + 1ms);
  policy.malformed_grace = 30s;
  policy.stale_mtime = milliseconds::max();
  CHECK(time_until_removable(nobody, policy) == 20s + 1ms);
  policy.stale_mtime = 15s;
  evidence.held_here = true;
  const Inspection own = classify({}, evidence, policy);
  CHECK_FALSE(time_until_removable(own, policy));
}

TEST_CASE("every verdict is explained in one sentence on one line") {
  CHECK(survey().not_explained == 0);
  CHECK(Inspection{}.explanation() == "Not locked: there is no lock file; an acquire would succeed at once.");
}

TEST_CASE("another program's start time that differs proves nothing in another time namespace, and there alone") {
  for (const bool is_initial : {true, false}) {
    Observer looks = observer();
    looks.time_namespace = is_initial ? 0xEFFFFFFA : 4026532178;
    Evidence evidence = running(Comparison::none);
    relate(evidence, foreign_record(), looks);
    CHECK(evidence.comparison == Comparison::foreign);
    evidence.observed_start_ticks = k_start + 1;
    const Inspection inspection = classify(foreign_record(31min), evidence, {});
    CHECK(inspection.removable == is_initial);
    CHECK(inspection.basis == (is_initial ? Basis::start_differs : Basis::undecided));
    CHECK(inspection.owner == (is_initial ? OwnerState::dead : OwnerState::unknown));
    CHECK(inspection.reasons ==
          (is_initial ? Reasons{StaleReason::recycled_pid, StaleReason::too_old} : Reasons{StaleReason::too_old}));
    StalePolicy policy;
    policy.unknown_owner = UnknownOwner::reclaim_when_aged;
    CHECK(classify(foreign_record(31min), evidence, policy).removable);
    CHECK(classify(foreign_record(), evidence, policy).removable == is_initial);
    evidence.observed_start_ticks = k_start;
    CHECK(classify(foreign_record(31min), evidence, policy).basis == Basis::verified);
    evidence.pid = PidProbe::gone;
    CHECK(classify(foreign_record(), evidence, {}).basis == Basis::pid_gone);
  }
}

TEST_CASE(
    "where the kernel has no time namespaces, or the record names the observer's, start times that differ count") {
  Observer looks = observer();
  looks.time_namespace = 4026532178;
  LockRecord record = own_record();
  record.time_namespace = 4026532178;
  Evidence evidence;
  relate(evidence, record, looks);
  CHECK(evidence.comparison == Comparison::own);
  CHECK(evidence.other_start_counts);
  looks.time_namespace = 0;
  looks.time_namespaces_absent = true;
  relate(evidence, foreign_record(), looks);
  CHECK(evidence.comparison == Comparison::foreign);
  CHECK(evidence.other_start_counts);
}

TEST_CASE("a createdAt that looks old by a clock that is ahead makes no young file old") {
  LockRecord record = foreign_record(2h);
  record.starttime.reset();
  record.max_hold_ms = 60'000;
  Evidence evidence = running(Comparison::foreign);
  evidence.observed_start_ticks.reset();
  CHECK(needs_file_age(record, evidence));
  evidence.file_age = 12s;
  const Inspection young = classify(record, evidence, {});
  CHECK(young.state == LockState::held);
  CHECK(young.basis == Basis::unverified);
  CHECK(young.reasons.empty());
  CHECK(young.age == milliseconds{2h});
  CHECK(time_until_removable(young, {}) == 30min - 12s + 1ms);
  evidence.file_age = 30min + 1ms;
  const Inspection old = classify(record, evidence, {});
  CHECK(old.state == LockState::stale);
  CHECK(old.reasons == Reasons{StaleReason::too_old, StaleReason::hold_exceeded});
  // Where the file system's clock cannot be asked, the record's age has to do.
  evidence.file_age.reset();
  CHECK(classify(record, evidence, {}).state == LockState::stale);
}

TEST_CASE("an old file makes no lock old whose createdAt is young") {
  LockRecord record = foreign_record(12s);
  record.starttime.reset();
  Evidence evidence = running(Comparison::foreign);
  evidence.observed_start_ticks.reset();
  evidence.file_age = 2h;
  const Inspection young = classify(record, evidence, {});
  CHECK(young.state == LockState::held);
  CHECK(young.reasons.empty());
  CHECK(time_until_removable(young, {}) == 30min - 12s + 1ms);
}

TEST_CASE("a file age is needed only where a verdict can depend on it") {
  CHECK(survey().file_age_needed_unasked == 0);
  CHECK_FALSE(needs_file_age(foreign_record(30min), at_now()));
  CHECK(needs_file_age(foreign_record(30min + 1ms), at_now()));
  LockRecord with_limit = own_record(12s);
  with_limit.max_hold_ms = 12'000;
  CHECK_FALSE(needs_file_age(with_limit, at_now()));
  with_limit.max_hold_ms = 11'999;
  CHECK(needs_file_age(with_limit, at_now()));
  LockRecord record = foreign_record();
  CHECK_FALSE(needs_file_age(record, at_now()));
  record.created_at = "yesterday";
  CHECK(needs_file_age(record, at_now()));
  record.created_at.reset();
  CHECK(needs_file_age(record, at_now()));
  record = foreign_record();
  record.pid.reset();
  CHECK(needs_file_age(record, at_now()));
}

TEST_CASE("the time until age makes a lock removable is exact, and none where it never will") {
  CHECK(survey().due_at_another_time == 0);
}

TEST_CASE("the time until age makes a lock removable does not overflow") {
  StalePolicy policy;
  policy.unknown_owner = UnknownOwner::reclaim_when_aged;
  Evidence evidence;
  evidence.now = k_now;
  const Inspection inspection = classify(foreign_record(12s), evidence, policy);
  policy.stale_after = milliseconds::max();
  CHECK_FALSE(time_until_removable(inspection, policy));
  policy.stale_after = milliseconds::max() - 1ms;
  CHECK(time_until_removable(inspection, policy) == milliseconds::max() - 12s);
  policy.stale_after = milliseconds::min();
  CHECK(time_until_removable(inspection, policy) == 0ms);
  evidence.file_age = milliseconds::min();
  CHECK(time_until_removable(classify({}, evidence, {}), {}) == 30s + 1ms);
  evidence.file_age = milliseconds::max();
  CHECK_FALSE(time_until_removable(classify({}, evidence, {}), {}));
}

// --- Single behaviours ----------------------------------------------------------------------------------------------

TEST_CASE("start times beyond 2^53 are told apart") {
  // Protects: a start time is a 64-bit integer from the record's text to the comparison, never a double (trap 9).
  Evidence evidence = running(Comparison::foreign);
  for (const std::uint64_t start : {std::uint64_t{9007199254740993}, std::uint64_t{18446744073709551615U}}) {
    const auto record = parse_lock_record("{\"pid\": 41237, \"createdAt\": \"" + created(12s) +
                                          "\", \"starttime\": " + std::to_string(start) + "}");
    evidence.observed_start_ticks = start;
    CHECK(classify(record, evidence, {}).basis == Basis::verified);
    evidence.observed_start_ticks = start - 1;
    CHECK(classify(record, evidence, {}).reasons.front() == StaleReason::recycled_pid);
  }
}

TEST_CASE("a verified owner is kept whatever its age, and its age is reported") {
  const Inspection inspection = classify(own_record(31min), running(Comparison::own), {});
  CHECK(inspection.state == LockState::held);
  CHECK(inspection.owner == OwnerState::alive);
  CHECK(inspection.pid_alive);
  CHECK(inspection.basis == Basis::verified);
  CHECK(inspection.age == milliseconds{31min});
  CHECK(inspection.reasons == Reasons{StaleReason::too_old});
}

TEST_CASE("a dead pid is stale at once") {
  Evidence evidence = running(Comparison::foreign);
  evidence.pid = PidProbe::gone;
  evidence.observed_start_ticks.reset();
  const Inspection inspection = classify(foreign_record(0s), evidence, {});
  CHECK(inspection.state == LockState::stale);
  CHECK(inspection.owner == OwnerState::dead);
  CHECK_FALSE(inspection.pid_alive);
  CHECK(inspection.reasons == Reasons{StaleReason::dead_pid});
}

TEST_CASE("a recycled pid is stale at once, our own pid too") {
  for (const bool own_pid : {false, true}) {
    Evidence evidence = running(Comparison::own);
    evidence.own_pid = own_pid;
    evidence.observed_start_ticks = k_start + 1;
    const Inspection inspection = classify(own_record(0s), evidence, {});
    CHECK(inspection.state == LockState::stale);
    CHECK(inspection.pid_alive);
    CHECK(inspection.reasons == Reasons{StaleReason::recycled_pid});
  }
}

TEST_CASE("our own pid without a start time, or with a malformed one, is held") {
  for (const char* text : {"", ", \"starttime\": 123.5", ", \"starttime\": \"98765\"", ", \"starttime\": 1e400"}) {
    CAPTURE(text);
    const LockRecord record = parse_lock_record(R"({"pid": 500, "createdAt": ")" + created(12s) + "\"" + text + "}");
    Evidence evidence = running(Comparison::foreign);
    evidence.own_pid = true;
    const Inspection inspection = classify(record, evidence, {});
    CHECK(inspection.state == LockState::held);
    CHECK(inspection.basis == Basis::unverified);
    CHECK(inspection.reasons.empty());
  }
}

TEST_CASE("another program's lock with our own pid is an orphan if its file is older than we are by more than 2 s") {
  // Protects: `k_clock_slack`. A file's clock lags behind the kernel's a little.
  Evidence evidence = running(Comparison::foreign);
  evidence.own_pid = true;
  evidence.own_age = 1min;
  LockRecord record = foreign_record(0s);
  record.starttime.reset();
  evidence.file_age = 1min + 2s;
  CHECK(classify(record, evidence, {}).basis == Basis::unverified);
  evidence.file_age = 1min + 2s + 1ms;
  const Inspection inspection = classify(record, evidence, {});
  CHECK(inspection.basis == Basis::orphan_self);
  CHECK(inspection.reasons == Reasons{StaleReason::orphan_self_pid});
  evidence.own_age.reset();
  CHECK(classify(record, evidence, {}).basis == Basis::unverified);
}

TEST_CASE("digits in the place of our own pid are nobody's if their file is older than we are by more than 2 s") {
  Evidence evidence;
  evidence.now = k_now;
  evidence.digits = PidProbe::exists;
  evidence.own_digits = true;
  evidence.can_be_lock = true;
  evidence.own_age = 1min;
  evidence.file_age = 1min + 2s;
  CHECK(classify({}, evidence, {}).basis == Basis::digits);
  evidence.file_age = 1min + 2s + 1ms;
  CHECK(classify({}, evidence, {}).basis == Basis::no_pid);
}

TEST_CASE("an orphan of this process is stale only if nobody has its witness") {
  Evidence evidence = running(Comparison::own);
  evidence.own_pid = true;
  CHECK(classify(own_record(), evidence, {}).basis == Basis::verified);
  evidence.witness = WitnessState::free;
  const Inspection inspection = classify(own_record(), evidence, {});
  CHECK(inspection.state == LockState::stale);
  CHECK(inspection.reasons == Reasons{StaleReason::orphan_self_pid});
  evidence.witness = WitnessState::held;
  CHECK(classify(own_record(), evidence, {}).state == LockState::held);
}

TEST_CASE("whatever the record says, a held witness keeps the lock") {
  Evidence evidence;
  evidence.witness = WitnessState::held;
  evidence.file_age = 100h;
  evidence.now = k_now;
  evidence.pid = PidProbe::gone;
  evidence.comparison = Comparison::own;
  for (const LockRecord& record : {LockRecord{}, foreign_record(100h), own_record(100h)}) {
    const Inspection inspection = classify(record, evidence, {});
    CHECK(inspection.state == LockState::held);
    CHECK(inspection.basis == (record.pid ? Basis::witness_inherited : Basis::witness_held));
    CHECK(inspection.owner == OwnerState::alive);
  }
}

TEST_CASE("a lock held by this process is never stale, by age or by its hold limit") {
  LockRecord record = own_record(100h);
  record.max_hold_ms = 1;
  Evidence evidence = running(Comparison::own);
  evidence.held_here = true;
  evidence.witness = WitnessState::free;
  const Inspection inspection = classify(record, evidence, {});
  CHECK(inspection.state == LockState::held);
  CHECK(inspection.basis == Basis::held_here);
  CHECK(inspection.reasons == Reasons{StaleReason::too_old, StaleReason::hold_exceeded});
}

TEST_CASE("an unreadable file is held, names its cause, and lists no facts about a record nobody read") {
  Evidence evidence;
  evidence.unreadable = k_no_access;
  evidence.file_age = 100h;
  evidence.now = k_now;
  const Inspection inspection = classify({}, evidence, {});
  CHECK(inspection.state == LockState::held);
  CHECK(inspection.owner == OwnerState::unknown);
  CHECK(inspection.basis == Basis::unreadable);
  CHECK(inspection.cause == k_no_access);
  CHECK(inspection.reasons.empty());
  CHECK_FALSE(inspection.age);
}

TEST_CASE("a witness that cannot be asked makes the lock held and names its cause") {
  Evidence evidence = running(Comparison::own);
  evidence.pid = PidProbe::gone;
  evidence.witness_failure = k_io_error;
  const Inspection inspection = classify(own_record(31min), evidence, {});
  CHECK(inspection.state == LockState::held);
  CHECK(inspection.basis == Basis::unreadable);
  CHECK(inspection.cause == k_io_error);
  CHECK(inspection.reasons == Reasons{StaleReason::too_old});
}

TEST_CASE("a file without a pid is pending until it is older than the grace period") {
  Evidence evidence;
  evidence.now = k_now;
  for (const char* text : {"", "{}", "{\"pid\": 0}", "{\"pid\": 1.5}", "{\"pid\": \"1\"}"}) {
    CAPTURE(text);
    const LockRecord record = parse_lock_record(text);
    evidence.file_age = 30s;
    const Inspection young = classify(record, evidence, {});
    CHECK(young.state == LockState::pending);
    CHECK(young.owner == OwnerState::none);
    CHECK(young.reasons == Reasons{StaleReason::missing_pid, StaleReason::invalid_created_at});
    CHECK(young.file_age == milliseconds{30s});
    evidence.file_age = 30s + 1ms;
    CHECK(classify(record, evidence, {}).state == LockState::stale);
    evidence.file_age.reset();
    CHECK(classify(record, evidence, {}).state == LockState::pending);
  }
}

TEST_CASE("another program's live owner without a start time is reclaimed when aged, unless the policy keeps it") {
  Evidence evidence = running(Comparison::foreign);
  LockRecord record = foreign_record(30min);
  record.starttime.reset();
  CHECK(classify(record, evidence, {}).state == LockState::held);
  record.created_at = created(30min + 1ms);
  const Inspection aged = classify(record, evidence, {});
  CHECK(aged.state == LockState::stale);
  CHECK(aged.owner == OwnerState::alive);
  CHECK(aged.reasons == Reasons{StaleReason::too_old});
  StalePolicy keep;
  keep.aged_unverified = AgedUnverified::keep;
  CHECK(classify(record, evidence, keep).state == LockState::held);
}

TEST_CASE("a record that is aged only by its file counts the file's age where createdAt is no time") {
  Evidence evidence = running(Comparison::foreign);
  LockRecord record = foreign_record();
  record.starttime.reset();
  record.created_at = "yesterday";
  evidence.file_age = 30min;
  CHECK(classify(record, evidence, {}).state == LockState::held);
  evidence.file_age = 30min + 1ms;
  const Inspection inspection = classify(record, evidence, {});
  CHECK(inspection.state == LockState::stale);
  CHECK(inspection.reasons == Reasons{StaleReason::invalid_created_at});
  record.created_at = created(12s);
  CHECK(classify(record, evidence, {}).state == LockState::held);
}

TEST_CASE("a start time that cannot be compared keeps the lock of a pid that exists, however old") {
  Evidence evidence = running(Comparison::own);
  evidence.observed_start_ticks.reset();
  CHECK(classify(own_record(100h), evidence, {}).basis == Basis::start_unknown);
  LockRecord without = own_record(100h);
  without.starttime.reset();
  const Inspection inspection = classify(without, running(Comparison::own), {});
  CHECK(inspection.basis == Basis::start_unknown);
  CHECK(inspection.state == LockState::held);
}

TEST_CASE("an owner in another namespace of this boot is gone when nobody has its witness") {
  Evidence evidence;
  evidence.now = k_now;
  evidence.witness = WitnessState::free;
  const Inspection inspection = classify(own_record(), evidence, {});
  CHECK(inspection.state == LockState::stale);
  CHECK(inspection.reasons == Reasons{StaleReason::orphaned});
  CHECK_FALSE(inspection.pid_alive);
}

TEST_CASE("another boot is a previous boot only if the file is older than this one, on a local file system") {
  Evidence evidence;
  evidence.now = k_now;
  evidence.other_boot = true;
  evidence.local_file_system = true;
  CHECK(classify(own_record(100h), evidence, {}).state == LockState::held);
  evidence.older_than_boot = true;
  CHECK(classify(own_record(), evidence, {}).reasons == Reasons{StaleReason::previous_boot});
  evidence.local_file_system = false;
  CHECK(classify(own_record(100h), evidence, {}).basis == Basis::undecided);
}

TEST_CASE("an owner that cannot be judged is held, unless the policy gives it up when aged") {
  Evidence evidence;
  evidence.now = k_now;
  const Inspection held = classify(own_record(31min), evidence, {});
  CHECK(held.state == LockState::held);
  CHECK(held.owner == OwnerState::unknown);
  CHECK(held.reasons == Reasons{StaleReason::too_old});
  StalePolicy policy;
  policy.unknown_owner = UnknownOwner::reclaim_when_aged;
  CHECK(classify(own_record(31min), evidence, policy).state == LockState::stale);
  CHECK(classify(own_record(12s), evidence, policy).state == LockState::held);
}

TEST_CASE("a createdAt in the future has the age of its file, which hold limits go by as well") {
  LockRecord record = foreign_record();
  record.created_at = "2099-01-01T00:00:00Z";
  record.max_hold_ms = 60'000;
  Evidence evidence = running(Comparison::foreign);
  CHECK(needs_file_age(record, evidence));
  evidence.file_age = 0ms;
  const Inspection young = classify(record, evidence, {});
  CHECK(young.age == 0ms);
  CHECK(young.reasons.empty());
  evidence.file_age = 31min;
  const Inspection old = classify(record, evidence, {});
  CHECK(old.age == milliseconds{31min});
  CHECK(old.reasons == Reasons{StaleReason::too_old, StaleReason::hold_exceeded});
  evidence.file_age.reset();
  CHECK_FALSE(classify(record, evidence, {}).age);
}

TEST_CASE("a hold limit is exceeded once the lock is older than it") {
  LockRecord record = own_record(5min);
  record.max_hold_ms = 300'000;
  CHECK(classify(record, running(Comparison::own), {}).reasons.empty());
  record.created_at = created(5min + 1ms);
  const Inspection inspection = classify(record, running(Comparison::own), {});
  CHECK(inspection.reasons == Reasons{StaleReason::hold_exceeded});
  CHECK(inspection.state == LockState::held);
  record.created_at = "?";
  CHECK_FALSE(lists(classify(record, running(Comparison::own), {}), StaleReason::hold_exceeded));
}

TEST_CASE("reasons are listed with the verdict's first, then the facts") {
  LockRecord record = own_record(31min);
  record.max_hold_ms = 1;
  Evidence evidence = running(Comparison::own);
  evidence.pid = PidProbe::gone;
  CHECK(classify(record, evidence, {}).reasons ==
        Reasons{StaleReason::dead_pid, StaleReason::too_old, StaleReason::hold_exceeded});
  record.created_at.reset();
  CHECK(classify(record, evidence, {}).reasons == Reasons{StaleReason::dead_pid, StaleReason::invalid_created_at});
}

TEST_CASE("durations below zero in a policy count as zero") {
  StalePolicy policy;
  policy.stale_after = milliseconds::min();
  policy.malformed_grace = milliseconds{-1};
  LockRecord record = foreign_record(0s);
  record.starttime.reset();
  Evidence evidence = running(Comparison::foreign);
  CHECK(classify(record, evidence, policy).state == LockState::held);
  record.created_at = created(1ms);
  CHECK(classify(record, evidence, policy).state == LockState::stale);
  evidence.file_age = 0ms;
  CHECK(classify({}, evidence, policy).state == LockState::pending);
  evidence.file_age = 1ms;
  CHECK(classify({}, evidence, policy).state == LockState::stale);
}

TEST_CASE("durations and clocks at their limits do not overflow") {
  StalePolicy policy;
  policy.stale_after = milliseconds::max();
  policy.malformed_grace = milliseconds::max();
  LockRecord record = foreign_record();
  record.created_at = "0000-01-01T00:00:00Z";
  record.max_hold_ms = std::numeric_limits<std::int64_t>::max();
  Evidence evidence = running(Comparison::foreign);
  evidence.file_age = milliseconds::max();
  evidence.now = WallTime::max();
  const Inspection oldest = classify(record, evidence, policy);
  CHECK(oldest.age == milliseconds::max());
  CHECK(oldest.reasons.empty());
  CHECK(classify({}, evidence, policy).state == LockState::pending);
  evidence.now = WallTime::min();
  CHECK(classify(record, evidence, policy).age == milliseconds::max());  // the file's
  evidence.file_age = milliseconds::min();
  CHECK(classify({}, evidence, {}).state == LockState::pending);
}

TEST_CASE("the recorded pid counts as alive only if it was asked for and exists") {
  Evidence evidence = running(Comparison::own);
  CHECK(classify(own_record(), evidence, {}).pid_alive);
  evidence.pid = PidProbe::unknown;
  CHECK_FALSE(classify(own_record(), evidence, {}).pid_alive);
  evidence.pid = PidProbe::exists;
  evidence.comparison = Comparison::none;
  CHECK_FALSE(classify(own_record(), evidence, {}).pid_alive);
}

// --- Comparison -----------------------------------------------------------------------------------------------------

TEST_CASE("a record of our boot and namespaces is comparable") {
  CHECK(compare(own_record(), observer()) == Comparison::own);
}

TEST_CASE("a record with none of our fields is compared as its own program does") {
  CHECK(compare(foreign_record(), observer()) == Comparison::foreign);
  CHECK(compare({}, observer()) == Comparison::foreign);
  LockRecord record = foreign_record();
  record.host = "build7";
  record.label = "nightly";
  record.max_hold_ms = 1;
  record.session = "/srv/x.jsonl";
  CHECK(compare(record, observer()) == Comparison::foreign);
}

TEST_CASE("a partial set of our fields is not comparable") {
  // All combinations of the five fields but none of them, and those with all three that are compared.
  for (unsigned present = 1; present < 32; ++present) {
    CAPTURE(present);
    LockRecord record = own_record();
    const auto keep = [&](unsigned bit, auto& member) {
      if ((present & bit) == 0) {
        member.reset();
      }
    };
    keep(1, record.boot_id);
    keep(2, record.pid_namespace);
    keep(4, record.time_namespace);
    keep(8, record.witness);
    keep(16, record.lock_id);
    CHECK(compare(record, observer()) == ((present & 7) == 7 ? Comparison::own : Comparison::none));
  }
}

TEST_CASE("another boot, PID namespace or time namespace is not comparable") {
  LockRecord record = own_record();
  record.boot_id = "another";
  CHECK(compare(record, observer()) == Comparison::none);
  record = own_record();
  record.pid_namespace = 1;
  CHECK(compare(record, observer()) == Comparison::none);
  record = own_record();
  record.time_namespace = 1;
  CHECK(compare(record, observer()) == Comparison::none);
}

TEST_CASE(
    "an observer that does not know its own boot or namespaces compares nothing, not even another program's record") {
  for (const LockRecord& record : {own_record(), foreign_record()}) {
    Observer unknowing = observer();
    unknowing.boot_id = {};
    CHECK(compare(record, unknowing) == Comparison::none);
    unknowing = observer();
    unknowing.pid_namespace = 0;
    CHECK(compare(record, unknowing) == Comparison::none);
    unknowing = observer();
    unknowing.time_namespace = 0;
    CHECK(compare(record, unknowing) == Comparison::none);
  }
  LockRecord empty_handed = own_record();
  empty_handed.boot_id = "";
  Observer unknowing = observer();
  unknowing.boot_id = {};
  CHECK(compare(empty_handed, unknowing) == Comparison::none);
}

TEST_CASE("a kernel without time namespaces has time namespace 0, and knows it") {
  Observer older = observer();
  older.time_namespace = 0;
  older.time_namespaces_absent = true;
  CHECK(compare(foreign_record(), older) == Comparison::foreign);
  LockRecord record = own_record();
  CHECK(compare(record, older) == Comparison::none);
  record.time_namespace = 0;
  CHECK(compare(record, older) == Comparison::own);
  CHECK(compare(record, observer()) == Comparison::none);
}

TEST_CASE("boots are the same or not where both are known") {
  const auto related = [](const LockRecord& record, const Observer& observer) {
    Evidence evidence;
    relate(evidence, record, observer);
    return evidence;
  };
  CHECK_FALSE(related(own_record(), observer()).other_boot);
  LockRecord record = own_record();
  record.boot_id = "another";
  CHECK(related(record, observer()).other_boot);
  Observer unknowing = observer();
  unknowing.boot_id = {};
  for (const Evidence& evidence : {related(foreign_record(), observer()), related(own_record(), unknowing)}) {
    CHECK_FALSE(evidence.other_boot);
  }
}

TEST_CASE("a pid is the observer's own only where pids can be compared") {
  const auto own_pid = [](LockRecord record, std::optional<pid_t> pid) {
    record.pid = pid;
    Evidence evidence;
    relate(evidence, record, observer());
    return evidence.own_pid;
  };
  CHECK(own_pid(own_record(), observer().pid));
  CHECK(own_pid(foreign_record(), observer().pid));
  CHECK_FALSE(own_pid(own_record(), observer().pid + 1));
  CHECK_FALSE(own_pid(own_record(), std::nullopt));
  LockRecord elsewhere = own_record();
  elsewhere.pid_namespace = 1;
  CHECK_FALSE(own_pid(elsewhere, observer().pid));
}

// --- Witness --------------------------------------------------------------------------------------------------------

TEST_CASE("a write lock on the witness byte counts whatever the record says") {
  for (const LockRecord& record : {LockRecord{}, foreign_record(), own_record()}) {
    for (const Locality locality : {Locality::unknown, Locality::overlay, Locality::local}) {
      CHECK(judge_witness(record, WitnessQuery::write_locked, k_file, observer(), locality) == WitnessState::held);
      CHECK(judge_witness(record, WitnessQuery::write_locked, {}, {}, locality) == WitnessState::held);
    }
  }
}

TEST_CASE("a witness is free only where no other kernel can have it") {
  // Every combination of what the record declares, whose boot it is of, and what the observer knows of the file.
  struct Declared {
    const char* text;
    bool names_file;
    bool is_local;  // as its publisher had it
  };
  constexpr Declared k_declared[] = {
      {nullptr, false, false},
      {"ofd:2049:13107713", true, false},
      {"ofd2:2049:13107713", true, true},
      {"ofd:2049:13107714", false, false},
      {"ofd2:2049:13107714", false, true},
      {"ofd2:2050:13107713", false, true},
      {"ofd3:2049:13107713", false, false},
  };
  for (const Declared& declared : k_declared) {
    for (const char* boot : {"same", "another", ""}) {
      for (const Locality locality : {Locality::unknown, Locality::overlay, Locality::local}) {
        for (const bool observer_knows_boot : {true, false}) {
          LockRecord record = own_record();
          record.witness = declared.text != nullptr ? std::optional<std::string>(declared.text) : std::nullopt;
          record.boot_id = boot == std::string_view("same") ? std::string(k_boot) : std::string(boot);
          Observer who = observer();
          who.boot_id = observer_knows_boot ? who.boot_id : std::string_view{};
          const bool same_boot = observer_knows_boot && boot == std::string_view("same");
          const bool is_free = declared.names_file && ((declared.is_local && locality == Locality::local) ||
                                                       (same_boot && locality != Locality::unknown));
          CAPTURE(declared.text);
          CHECK((judge_witness(record, WitnessQuery::not_locked, k_file, who, locality) == WitnessState::free) ==
                is_free);
        }
      }
    }
  }
}

TEST_CASE("a witness on this inode number of another device is free only by the same boot and the list of locks") {
  // The device has another number after a remount; or another mount of the same file shows it, or the file is a copy.
  struct Declared {
    const char* text;
    bool names_number;
    Locality locality;  // of which it is the form
  };
  constexpr Declared k_declared[] = {
      {"ofd2:2050:13107713", true, Locality::local},  {"ofd:2050:13107713", true, Locality::overlay},
      {"ofd2:2050:13107714", false, Locality::local}, {"ofd:2050:13107714", false, Locality::overlay},
      {"ofd3:2050:13107713", false, Locality::local},
  };
  for (const Declared& declared : k_declared) {
    for (const char* boot : {"same", "another", ""}) {
      for (const Locality locality : {Locality::unknown, Locality::overlay, Locality::local}) {
        for (const ListQuery list :
             {ListQuery::not_asked, ListQuery::unknown, ListQuery::listed, ListQuery::not_listed}) {
          for (const WitnessQuery query : {WitnessQuery::not_locked, WitnessQuery::failed, WitnessQuery::not_asked}) {
            LockRecord record = own_record();
            record.witness = declared.text;
            record.boot_id = boot == std::string_view("same") ? std::string(k_boot) : std::string(boot);
            const bool depends = declared.names_number && boot == std::string_view("same") &&
                                 locality == declared.locality && query == WitnessQuery::not_locked;
            CAPTURE(declared.text);
            CHECK(needs_lock_list(record, query, k_file, observer(), locality) == depends);
            CHECK(judge_witness(record, query, k_file, observer(), locality, list) ==
                  (depends && list == ListQuery::not_listed ? WitnessState::free : WitnessState::unknown));
          }
        }
      }
    }
  }
  LockRecord record = own_record();
  record.witness = "ofd2:2050:13107713";
  CHECK_FALSE(needs_lock_list(record, WitnessQuery::write_locked, k_file, observer(), Locality::local));
  Observer without_boot = observer();
  without_boot.boot_id = {};
  CHECK_FALSE(needs_lock_list(record, WitnessQuery::not_locked, k_file, without_boot, Locality::local));
  CHECK_FALSE(needs_lock_list(own_record(), WitnessQuery::not_locked, k_file, observer(), Locality::local));
}

TEST_CASE("another namespace of the same boot sees the same kernel lock") {
  Observer elsewhere = observer();
  elsewhere.pid_namespace = 1;
  CHECK(judge_witness(own_record(), WitnessQuery::not_locked, k_file, elsewhere, Locality::local) ==
        WitnessState::free);
}

TEST_CASE("a witness that was not asked, or could not be, is unknown") {
  for (const WitnessQuery query : {WitnessQuery::failed, WitnessQuery::not_asked}) {
    CHECK(judge_witness(own_record(), query, k_file, observer(), Locality::local) == WitnessState::unknown);
  }
}

TEST_CASE("a witness on the largest device and inode is recognised as the file's own") {
  constexpr auto max = std::numeric_limits<std::uint64_t>::max();
  LockRecord record = own_record();
  record.witness = format_witness({WitnessForm::ofd2, {max, max}});
  CHECK(parse_lock_record(format_lock_record(record)) == record);
  CHECK(judge_witness(record, WitnessQuery::not_locked, {max, max}, observer(), Locality::local) == WitnessState::free);
}

// --- Words ----------------------------------------------------------------------------------------------------------

TEST_CASE("reasons have the names that users are told") {
  CHECK(to_string(StaleReason::missing_pid) == "missing-pid");
  CHECK(to_string(StaleReason::dead_pid) == "dead-pid");
  CHECK(to_string(StaleReason::recycled_pid) == "recycled-pid");
  CHECK(to_string(StaleReason::previous_boot) == "previous-boot");
  CHECK(to_string(StaleReason::orphaned) == "orphaned");
  CHECK(to_string(StaleReason::orphan_self_pid) == "orphan-self-pid");
  CHECK(to_string(StaleReason::invalid_created_at) == "invalid-createdAt");
  CHECK(to_string(StaleReason::too_old) == "too-old");
  CHECK(to_string(StaleReason::hold_exceeded) == "hold-exceeded");
}

TEST_CASE("states and owners have the names that users are told") {
  CHECK(to_string(LockState::free) == "free");
  CHECK(to_string(LockState::held) == "held");
  CHECK(to_string(LockState::pending) == "pending");
  CHECK(to_string(LockState::stale) == "stale");
  CHECK(to_string(OwnerState::none) == "none");
  CHECK(to_string(OwnerState::alive) == "alive");
  CHECK(to_string(OwnerState::dead) == "dead");
  CHECK(to_string(OwnerState::unknown) == "unknown");
}

TEST_CASE("an explanation names owner, label, host, age, evidence and what an acquire would do") {
  LockRecord record = own_record(31min);
  record.host = "build7";
  record.label = "nightly \"x\"\n";
  record.max_hold_ms = 300'000;
  CHECK(classify(record, running(Comparison::own), {}).explanation() ==
        "Held by pid 41237 on host \"build7\" (label \"nightly \\\"x\\\"\\n\") since 2026-11-20T11:29:00.000Z (31m): "
        "that process runs, and started when the record says, although it is older than the age limit and it was meant "
        "for 5m at most; an acquire would wait for it.");
}

TEST_CASE("an explanation of a stale lock says why, and whether it has been removed") {
  Evidence evidence = running(Comparison::foreign);
  evidence.pid = PidProbe::gone;
  Inspection inspection = classify(foreign_record(12s), evidence, {});
  CHECK(inspection.explanation() ==
        "Left behind by pid 41237 since 2026-11-20T11:59:48.000Z (12s): no such process runs; an acquire would take it "
        "over at once.");
  inspection.removed = true;
  CHECK(inspection.explanation() ==
        "Left behind by pid 41237 since 2026-11-20T11:59:48.000Z (12s): no such process runs; it has been removed.");
}

TEST_CASE("an explanation of a lock that names nobody tells how old the file is and what is waited for") {
  Evidence evidence;
  evidence.file_age = 12s;
  evidence.now = k_now;
  CHECK(classify({}, evidence, {}).explanation() ==
        "Held by nobody that can be named (the file is 12s old): the file has no usable pid, but may be a lock that is "
        "being written; an acquire would wait until it is complete or has been like this for too long.");
}

TEST_CASE("an explanation of a lock that names nobody tells its label, where it has one") {
  LockRecord record;
  record.label = "nightly";
  const std::string words = classify(record, {}, {}).explanation();
  CHECK(words.find("nobody that can be named (label \"nightly\")") != std::string::npos);
}

TEST_CASE("an explanation of a lock that could be taken over says what would keep an acquire from it") {
  LockRecord record = foreign_record();
  Evidence evidence = running(Comparison::foreign);
  evidence.pid = PidProbe::gone;
  Inspection stale = classify(record, evidence, {});
  REQUIRE(stale.removable);
  stale.obstacle = {EACCES, std::system_category()};
  CHECK(stale.explanation().find("; but an acquire would fail: Permission denied.") != std::string::npos);
  Inspection free;
  free.obstacle = {EROFS, std::system_category()};
  CHECK(free.explanation() == "Not locked: there is no lock file; but an acquire would fail: Read-only file system.");
}

TEST_CASE("what comes from elsewhere and has no name here is still told in words") {
  CHECK(to_string(static_cast<StaleReason>(77)) == "unknown");
  CHECK(to_string(static_cast<LockState>(77)) == "unknown");
  CHECK(to_string(static_cast<OwnerState>(77)) == "unknown");
  Inspection odd;
  odd.state = static_cast<LockState>(77);
  odd.owner = static_cast<OwnerState>(77);
  odd.basis = static_cast<Basis>(77);
  CHECK(odd.explanation() == ": the evidence is unknown; what an acquire would do is unknown.");
}

TEST_CASE("an explanation of an unreadable lock names the cause") {
  Evidence evidence;
  evidence.unreadable = k_no_access;
  CHECK(classify({}, evidence, {}).explanation() ==
        "Held, as far as can be told, by an unknown process: the lock cannot be read (Permission denied) and therefore "
        "counts as held; an acquire would wait for it.");
}
