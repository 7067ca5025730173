#include <chrono>
#include <iterator>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

#include <doctest/doctest.h>

#include "claims/pid_verdict.hpp"

using namespace sessionlock;
using namespace std::chrono_literals;
using std::chrono::milliseconds;

namespace {

PidText record_of(pid_t pid, std::optional<std::string> token = {}) {
  PidText text{PidTextForm::record, {}};
  text.record.pid = pid;
  text.record.start_token = std::move(token);
  return text;
}

PidFileInspection judge(const PidText& text, Liveness liveness, std::optional<std::string> token = {},
                        const PidFilePolicy& policy = {}) {
  return judge_pid_file(text, {.liveness = liveness, .token = std::move(token)}, policy);
}

PidFileInspection judge_nobody(PidTextForm form, milliseconds age, const PidFilePolicy& policy = {}) {
  return judge_pid_file({form, {}}, {.file_age = age}, policy);
}

}  // namespace

TEST_CASE("a dead process is stale, an equal token alive, another token a reused pid") {
  const auto dead = judge(record_of(7, "5"), Liveness::dead);
  CHECK(dead.state == PidFileState::stale);
  CHECK(dead.reason == PidFileReason::pid_gone);
  const auto running = judge(record_of(7, "5"), Liveness::alive, "5");
  CHECK(running.state == PidFileState::alive);
  CHECK(running.reason == PidFileReason::verified);
  const auto reused = judge(record_of(7, "5"), Liveness::alive, "6");
  CHECK(reused.state == PidFileState::stale);
  CHECK(reused.reason == PidFileReason::recycled);
  CHECK(judge(record_of(7, "5"), Liveness::unknown, "5").state == PidFileState::unknown);
}

TEST_CASE("a corrupt token of a living process is invalid, and never removable") {
  PidText text = record_of(7);
  text.record.corrupt_token = true;
  const auto found = judge(text, Liveness::alive, "5");
  CHECK(found.state == PidFileState::invalid);
  CHECK(found.reason == PidFileReason::corrupt_token);
  CHECK_FALSE(found.due);
  CHECK_FALSE(is_removable(found));
  CHECK(judge(text, Liveness::dead).state == PidFileState::stale);
}

TEST_CASE("the explanation tells dead from reused") {
  CHECK(judge(record_of(7, "5"), Liveness::dead).explanation() == "Stale: pid 7 is dead.");
  CHECK(judge(record_of(7, "5"), Liveness::alive, "6").explanation() ==
        "Stale: pid 7 was reused by a process that started at another time.");
}

TEST_CASE("without a stored token liveness alone decides, unless the policy is to respawn") {
  const auto trusted = judge(record_of(7), Liveness::alive, "5");
  CHECK(trusted.state == PidFileState::alive);
  CHECK(trusted.reason == PidFileReason::unverified);
  PidFilePolicy respawn;
  respawn.without_token = UnverifiedOwner::stale;
  const auto replaced = judge(record_of(7), Liveness::alive, "5", respawn);
  CHECK(replaced.state == PidFileState::stale);
  CHECK(replaced.reason == PidFileReason::unverified);
  CHECK(judge(record_of(7, "5"), Liveness::alive, "5", respawn).state == PidFileState::alive);
}

TEST_CASE("a token that cannot be read now is the caller's policy, alive by default") {
  CHECK(judge(record_of(7, "5"), Liveness::alive).state == PidFileState::alive);
  PidFilePolicy policy;
  policy.unreadable_token = UnverifiedOwner::stale;
  CHECK(judge(record_of(7, "5"), Liveness::alive, {}, policy).state == PidFileState::stale);
}

TEST_CASE("tokens of different providers cannot be compared") {
  CHECK(judge(record_of(7, "Fri Nov 20 03:31:48 2026"), Liveness::alive, "5").state == PidFileState::unknown);
}

TEST_CASE("a file that names nobody is taken over once it is older than the grace, and says when") {
  PidFilePolicy policy;
  policy.malformed_grace = 30s;
  for (const auto form : {PidTextForm::blank, PidTextForm::torn, PidTextForm::no_pid}) {
    const auto young = judge_nobody(form, 12s, policy);
    CHECK(young.state == PidFileState::invalid);
    CHECK(young.grace == 30s);
    CHECK(young.due == 18s + 1ms);
    CHECK_FALSE(is_removable(young));
    CHECK(young.explanation().find("once it is 30s old, in 18s.") != std::string::npos);
    CHECK_FALSE(is_removable(judge_nobody(form, 30s, policy)));
    const auto old = judge_nobody(form, 30s + 1ms, policy);
    CHECK(old.due == 0ms);
    CHECK(is_removable(old));
    CHECK(old.explanation().find("more than 30s old") != std::string::npos);
  }
  policy.malformed_grace = milliseconds::max();
  const auto never = judge_nobody(PidTextForm::blank, 24h * 365, policy);
  CHECK(never.due == milliseconds::max());
  CHECK(never.explanation() == "Invalid: the file is empty. It may be a claim in progress, and is never taken over.");
  policy.malformed_grace = -1ms;
  CHECK_FALSE(is_removable(judge_nobody(PidTextForm::blank, 0ms, policy)));
  CHECK(is_removable(judge_nobody(PidTextForm::blank, 1ms, policy)));
}

TEST_CASE("what names nobody is explained as what it is") {
  CHECK(judge_nobody(PidTextForm::blank, 1s).explanation().starts_with("Invalid: the file is empty. "));
  CHECK(judge_nobody(PidTextForm::torn, 1s).explanation().starts_with("Invalid: the file was cut off "));
  CHECK(judge_nobody(PidTextForm::no_pid, 1s).explanation().starts_with("Invalid: the file names no process. "));
}

TEST_CASE("something else than a PID file is never removable") {
  const auto found = judge_nobody(PidTextForm::other, 24h * 365);
  CHECK(found.state == PidFileState::invalid);
  CHECK(found.reason == PidFileReason::no_pid_file);
  CHECK_FALSE(found.due);
  CHECK_FALSE(is_removable(found));
}

TEST_CASE("digits in the place of a pid keep the file while such a process exists, at any age") {
  for (const auto form : {PidTextForm::no_pid, PidTextForm::torn}) {
    PidText text{form, {}};
    text.record.digits_pid = 7;
    const auto judge_at = [&](Liveness liveness, milliseconds age) {
      return judge_pid_file(text, {.liveness = liveness, .token = "5", .file_age = age}, {});
    };
    const auto running = judge_at(Liveness::alive, 24h * 365);
    CHECK(running.state == PidFileState::alive);
    CHECK(running.reason == PidFileReason::unverified);
    CHECK(running.explanation().find("pid 7 exists") != std::string::npos);
    CHECK_FALSE(is_removable(judge_at(Liveness::unknown, 24h * 365)));
    CHECK(judge_at(Liveness::dead, 29s).state == PidFileState::invalid);
    CHECK_FALSE(is_removable(judge_at(Liveness::dead, 29s)));
    CHECK(is_removable(judge_at(Liveness::dead, 31s)));
  }
}

TEST_CASE("a file that names its claimer is a former process's without a token, or with the claimer's own") {
  PidFileEvidence evidence{.names_claimer = true, .liveness = Liveness::alive, .token = "5"};
  for (const auto& text : {record_of(7), record_of(7, "5")}) {
    const auto found = judge_pid_file(text, evidence, {});
    CHECK(found.state == PidFileState::stale);
    CHECK(found.reason == PidFileReason::claimers_pid);
  }
  CHECK(judge_pid_file(record_of(7, "6"), evidence, {}).reason == PidFileReason::recycled);
  PidText corrupt = record_of(7);
  corrupt.record.corrupt_token = true;
  CHECK_FALSE(is_removable(judge_pid_file(corrupt, evidence, {})));
  evidence.names_claimer = false;
  CHECK(judge_pid_file(record_of(7), evidence, {}).reason == PidFileReason::unverified);
  CHECK(judge_pid_file(record_of(7, "5"), evidence, {}).reason == PidFileReason::verified);
}

TEST_CASE("digits that name the claimer, or a process younger than the file, keep no file") {
  PidText text{PidTextForm::no_pid, {}};
  text.record.digits_pid = 7;
  const PidFileEvidence evidence{.liveness = Liveness::alive, .file_age = 31s};
  CHECK(judge_pid_file(text, evidence, {}).state == PidFileState::alive);
  PidFileEvidence claimer = evidence;
  claimer.names_claimer = true;
  CHECK(is_removable(judge_pid_file(text, claimer, {})));
  PidFileEvidence younger = evidence;
  younger.is_older_than_process = true;
  CHECK(is_removable(judge_pid_file(text, younger, {})));
}

TEST_CASE("a held witness means running, whatever else is known, and never lets a claim take the file over") {
  for (const auto form :
       {PidTextForm::record, PidTextForm::blank, PidTextForm::torn, PidTextForm::no_pid, PidTextForm::other}) {
    for (const auto liveness : {Liveness::alive, Liveness::dead, Liveness::unknown}) {
      for (const bool comparable : {true, false}) {
        const PidText text = form == PidTextForm::record ? record_of(7, "5") : PidText{form, {}};
        const auto found = judge_pid_file(text,
                                          {.is_held = true,
                                           .pid_is_comparable = comparable,
                                           .is_from_previous_boot = !comparable,
                                           .liveness = liveness,
                                           .token = "6",
                                           .file_age = 24h},
                                          {});
        CHECK(found.state == PidFileState::alive);
        CHECK_FALSE(is_removable(found));
        CHECK_FALSE(found.due);
        const bool has_ended = form == PidTextForm::record && comparable && liveness != Liveness::unknown;
        CHECK(found.reason == (has_ended ? PidFileReason::witness_inherited : PidFileReason::witness_held));
      }
    }
  }
  CHECK(judge_pid_file(record_of(7, "5"), {.is_held = true, .liveness = Liveness::alive, .token = "5"}, {}).reason ==
        PidFileReason::verified);
  CHECK(judge_pid_file(record_of(7), {.is_held = true, .liveness = Liveness::alive, .token = "5"}, {}).reason ==
        PidFileReason::unverified);
}

TEST_CASE("a process that cannot be asked about is gone only if its witness is free, or its boot over") {
  const auto judge_elsewhere = [](PidFileEvidence evidence) {
    evidence.pid_is_comparable = false;
    evidence.liveness = Liveness::dead;  // of whatever has the number here
    return judge_pid_file(record_of(7, "5"), evidence, {});
  };
  CHECK(judge_elsewhere({}).state == PidFileState::unknown);
  CHECK(judge_elsewhere({.witness_is_free = true}).reason == PidFileReason::orphaned);
  CHECK(judge_elsewhere({.is_from_previous_boot = true}).reason == PidFileReason::previous_boot);
  // Where it can be asked about, a free witness proves nothing: the owner may have closed its descriptors.
  CHECK(judge_pid_file(record_of(7, "5"), {.witness_is_free = true, .liveness = Liveness::alive, .token = "5"}, {})
            .state == PidFileState::alive);
}

TEST_CASE("a token that is told by another clock is as one that cannot be read") {
  PidFileEvidence evidence{.token_is_comparable = false, .liveness = Liveness::alive, .token = "6"};
  CHECK(judge_pid_file(record_of(7, "5"), evidence, {}).reason == PidFileReason::unverified);
  evidence.liveness = Liveness::dead;
  CHECK(judge_pid_file(record_of(7, "5"), evidence, {}).reason == PidFileReason::pid_gone);
}

TEST_CASE("where another token proves nothing, the pid decides, and an equal token still verifies") {
  PidFileEvidence evidence{.liveness = Liveness::alive, .token = "6"};
  evidence.other_token_counts = false;
  CHECK(judge_pid_file(record_of(7, "6"), evidence, {}).reason == PidFileReason::verified);
  const auto other = judge_pid_file(record_of(7, "5"), evidence, {});
  CHECK(other.state == PidFileState::alive);
  CHECK(other.reason == PidFileReason::unverified);
  CHECK(judge_pid_file(record_of(7, "5"), evidence, {.unreadable_token = UnverifiedOwner::stale}).state ==
        PidFileState::stale);
  evidence.is_older_than_process = true;
  CHECK(judge_pid_file(record_of(7, "5"), evidence, {}).reason == PidFileReason::older_than_process);
  CHECK(judge_pid_file(record_of(7, "6"), evidence, {}).reason == PidFileReason::verified);
  evidence.liveness = Liveness::dead;
  CHECK(judge_pid_file(record_of(7, "5"), evidence, {}).reason == PidFileReason::pid_gone);
}

TEST_CASE("each state and each reason has a word, and each verdict an explanation of its own") {
  constexpr std::pair<PidFileState, std::string_view> k_states[] = {{PidFileState::missing, "missing"},
                                                                    {PidFileState::alive, "alive"},
                                                                    {PidFileState::stale, "stale"},
                                                                    {PidFileState::invalid, "invalid"},
                                                                    {PidFileState::unknown, "unknown"}};
  for (const auto& [state, word] : k_states) {
    CHECK(to_string(state) == word);
  }
  CHECK(to_string(static_cast<PidFileState>(77)) == "unknown");
  using State = PidFileState;
  using Reason = PidFileReason;
  constexpr std::tuple<State, Reason, std::string_view> k_verdicts[] = {
      {State::missing, Reason::no_file, "no-file"},
      {State::alive, Reason::witness_held, "witness-held"},
      {State::alive, Reason::witness_inherited, "witness-inherited"},
      {State::alive, Reason::verified, "verified"},
      {State::alive, Reason::unverified, "unverified"},
      {State::stale, Reason::unverified, "unverified"},
      {State::stale, Reason::pid_gone, "pid-gone"},
      {State::stale, Reason::recycled, "recycled"},
      {State::invalid, Reason::corrupt_token, "corrupt-token"},
      {State::invalid, Reason::empty, "empty"},
      {State::invalid, Reason::torn, "torn"},
      {State::invalid, Reason::no_pid, "no-pid"},
      {State::invalid, Reason::no_pid_file, "no-pid-file"},
      {State::stale, Reason::claimers_pid, "claimers-pid"},
      {State::stale, Reason::older_than_process, "older-than-process"},
      {State::stale, Reason::orphaned, "orphaned"},
      {State::stale, Reason::previous_boot, "previous-boot"},
      {State::unknown, Reason::undecided, "undecided"}};
  std::set<std::string> explanations;
  for (const auto& [state, reason, word] : k_verdicts) {
    CHECK(to_string(reason) == word);
    PidFileInspection found;
    found.state = state;
    found.reason = reason;
    found.record = record_of(7).record;
    explanations.insert(found.explanation());
    CHECK(found.explanation().ends_with('.'));
  }
  CHECK(explanations.size() == std::size(k_verdicts));
  CHECK(to_string(static_cast<PidFileReason>(77)) == "undecided");
  PidFileInspection odd;
  odd.state = static_cast<PidFileState>(77);
  CHECK(odd.explanation().starts_with("Unknown: nothing that can be seen from here tells whether nobody "));
}
