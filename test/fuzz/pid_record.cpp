// PID files in all their forms: what is read, that it is written the same again, and that nothing corrupt ever counts
// as "no token".

#include <sessionlock/pid_file.hpp>

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "claims/pid_record.hpp"
#include "claims/pid_verdict.hpp"
#include "process/portable/ps_start_token.hpp"
#include "support/json_oracle.hpp"
#include "support/target.hpp"

using sessionlock::Liveness;
using sessionlock::parse_pid_record;
using sessionlock::PidFileFormat;
using sessionlock::PidFilePolicy;
using sessionlock::PidFileState;
using sessionlock::PidRecord;
using sessionlock::PidText;
using sessionlock::PidTextForm;
using sessionlock::UnverifiedOwner;
using sessionlock::fuzz::Json;

namespace {

bool is_plain_number(std::string_view text, std::string_view max) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos &&
         (text == "0" || text.front() != '0') &&
         (text.size() < max.size() || (text.size() == max.size() && text <= max));
}

bool is_token(std::string_view text) {
  return is_plain_number(text, "18446744073709551615") || sessionlock::parse_lstart(text) == text;
}

bool is_blank(char c) {
  return c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '\0';
}

std::string without_blanks_at_ends(std::string text) {
  while (!text.empty() && is_blank(text.back())) {
    text.pop_back();
  }
  while (!text.empty() && is_blank(text.front())) {
    text.erase(0, 1);
  }
  return text;
}

/// `PID`, `PID:TOKEN` or `PID TOKEN` on the first line that is not blank.
PidRecord read_slowly(std::string_view text) {
  PidRecord record;
  std::string line;
  for (const char c : without_blanks_at_ends(std::string(text))) {
    if (c == '\n') {
      break;
    }
    line += c;
  }
  line = without_blanks_at_ends(line);
  const auto digits = std::min(line.find_first_not_of("0123456789"), line.size());
  if (!is_plain_number(line.substr(0, digits), "2147483647") || line.substr(0, digits) == "0") {
    return record;
  }
  const std::string rest = line.substr(digits);
  if (!rest.empty() && rest.front() != ':' && !is_blank(rest.front())) {
    return record;
  }
  record.pid = std::stoi(line.substr(0, digits));
  if (!rest.empty()) {
    const std::string token = without_blanks_at_ends(rest.substr(1));
    record.format = rest.front() == ':' ? PidFileFormat::colon : PidFileFormat::space;
    record.start_token = is_token(token) ? std::optional(token) : std::nullopt;
    record.corrupt_token = !is_token(token) && token != "unknown";
  }
  return record;
}

void check_json(std::string_view text, const PidRecord& record) {
  const std::string inside = without_blanks_at_ends(std::string(text));
  const auto document = sessionlock::fuzz::read_json(inside);
  FUZZ_CHECK(record.format == PidFileFormat::json);
  if (!document || document->kind != Json::Kind::object) {
    FUZZ_CHECK(!record.pid && !record.start_token && record.extra_fields.empty());
    return;
  }
  const Json* pid = nullptr;
  const Json* token = nullptr;
  bool has_others = false;
  for (const auto& [key, value] : document->members) {
    pid = key == "pid" ? &value : pid;
    token = key == "startToken" ? &value : token;
    has_others = has_others || (key != "pid" && key != "startToken");
  }
  FUZZ_CHECK(!record.pid || (pid != nullptr && pid->kind == Json::Kind::number));
  if (!record.pid) {
    return;
  }
  FUZZ_CHECK(record.extra_fields.empty() != has_others);
  const bool has_value = token != nullptr && token->kind != Json::Kind::null;
  const bool is_word = has_value && (token->kind == Json::Kind::text || token->kind == Json::Kind::number);
  const bool is_good = is_word && token->text && is_token(*token->text);
  FUZZ_CHECK(record.start_token == (is_good ? token->text : std::nullopt));
  const bool is_unknown = has_value && token->kind == Json::Kind::text && token->text == "unknown";
  FUZZ_CHECK(record.corrupt_token == (has_value && !is_good && !is_unknown));
}

void check_judgement(const PidText& text, std::chrono::milliseconds age) {
  const PidRecord& record = text.record;
  for (const auto liveness : {Liveness::alive, Liveness::dead, Liveness::unknown}) {
    for (const auto owner : {UnverifiedOwner::trust, UnverifiedOwner::stale}) {
      for (const auto& token :
           {std::optional<std::string>{}, std::optional<std::string>{"12345"}, record.start_token}) {
        PidFilePolicy policy;
        policy.without_token = owner;
        policy.unreadable_token = owner;
        const auto found =
            sessionlock::judge_pid_file(text, {.liveness = liveness, .token = token, .file_age = age}, policy);
        const bool removable = sessionlock::is_removable(found);
        FUZZ_CHECK(found.state != PidFileState::missing);
        FUZZ_CHECK(found.state != PidFileState::alive || liveness == Liveness::alive);
        FUZZ_CHECK(!record.pid ||
                   (found.state == PidFileState::invalid) == (record.corrupt_token && liveness == Liveness::alive));
        FUZZ_CHECK(!record.pid || (liveness == Liveness::dead) <= (found.state == PidFileState::stale));
        FUZZ_CHECK(!record.pid || (liveness == Liveness::unknown) <= (found.state == PidFileState::unknown));
        const bool same = record.start_token && token == record.start_token;
        FUZZ_CHECK(!same || liveness != Liveness::alive || !record.pid || found.state == PidFileState::alive);
        // What names nobody goes by age alone, and what digits name stays while it may live.
        FUZZ_CHECK(record.pid || !removable || (age > policy.malformed_grace && text.form != PidTextForm::other));
        FUZZ_CHECK(!record.digits_pid || liveness == Liveness::dead || !removable);
        FUZZ_CHECK(found.explanation().ends_with('.'));
      }
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text = sessionlock::fuzz::text_of(data, size);
  if (size > sessionlock::fuzz::k_oracle_bytes_max) {
    return 0;
  }
  const PidText read = sessionlock::read_pid_text(text);
  const PidRecord& record = read.record;
  FUZZ_CHECK(record == parse_pid_record(text));
  FUZZ_CHECK(record.pid.has_value() == (read.form == PidTextForm::record));
  FUZZ_CHECK(!record.digits_pid || !record.pid);
  FUZZ_CHECK(!(record.start_token && record.corrupt_token));
  FUZZ_CHECK(!record.pid || *record.pid > 0);
  if (record.format == PidFileFormat::json) {
    check_json(text, record);
  } else {
    PidRecord without_digits = record;
    without_digits.digits_pid.reset();
    FUZZ_CHECK(without_digits == read_slowly(text));
  }
  if (record.pid) {
    FUZZ_CHECK(record.extra_fields.empty() || sessionlock::are_extra_fields(record.extra_fields));
    // What must not lead to a signal does not.
    FUZZ_CHECK(!record.corrupt_token || !sessionlock::recorded_process(record));
    PidRecord again = parse_pid_record(sessionlock::format_pid_record(record));
    // A token that is none, or is not there, is not written, and in the space form neither is its separator.
    if (!record.start_token && record.format == PidFileFormat::space) {
      again.format = PidFileFormat::space;
    }
    PidRecord expected = record;
    expected.corrupt_token = false;
    FUZZ_CHECK(again == expected);
  }
  check_judgement(read, std::chrono::seconds{1});
  check_judgement(read, std::chrono::hours{1});
  (void)sessionlock::are_extra_fields(text);
  return 0;
}
