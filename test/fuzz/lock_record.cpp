// The parser of lock records, against the field table of docs/file-format.md written down a second time: slowly, on a
// tree, with numbers as strings of decimal digits.

#include <sessionlock/lock_record.hpp>

#include <algorithm>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>

#include "record/lock_text.hpp"
#include "support/json_oracle.hpp"
#include "support/target.hpp"

using sessionlock::format_lock_record;
using sessionlock::LockForm;
using sessionlock::LockRecord;
using sessionlock::LockText;
using sessionlock::parse_lock_record;
using sessionlock::fuzz::Json;

namespace {

/// What is beyond a thousand million is as good as that: no number here has so many digits.
std::int64_t exponent_of(std::string text) {
  const bool is_negative = text.front() == '-';
  text.erase(0, text.find_first_not_of("+-0"));
  const std::int64_t size = text.empty() ? 0 : text.size() > 9 ? 999'999'999 : std::stoll(text);
  return is_negative ? -size : size;
}

/// A number without a sign as whole decimal digits, without leading zeros; none if it has a fraction, or more digits
/// than anything here can have.
std::optional<std::string> whole_digits(std::string number) {
  std::int64_t exponent = 0;
  if (const auto e = number.find_first_of("eE"); e != std::string::npos) {
    exponent = exponent_of(number.substr(e + 1));
    number.resize(e);
  }
  std::string digits;
  std::int64_t behind_point = 0;
  if (const auto point = number.find('.'); point != std::string::npos) {
    behind_point = static_cast<std::int64_t>(number.size() - point - 1);
    number.erase(point, 1);
  }
  digits = number;
  digits.erase(0, std::min(digits.find_first_not_of('0'), digits.size()));
  if (digits.empty()) {
    return "0";
  }
  std::int64_t shift = exponent - behind_point;
  for (; shift < 0; ++shift) {
    if (digits.back() != '0') {
      return std::nullopt;
    }
    digits.pop_back();
  }
  if (shift > 30) {
    return std::nullopt;
  }
  digits.append(static_cast<std::size_t>(shift), '0');
  return digits.size() > 30 ? std::nullopt : std::optional(digits);
}

bool is_at_most(const std::string& digits, const std::string& max) {
  return digits.size() != max.size() ? digits.size() < max.size() : digits <= max;
}

/// A whole number from `min` to `max`. Written with a fraction or an exponent it may be 2^53 at most.
std::optional<std::string> whole(const Json& value, const std::string& min, const std::string& max) {
  if (value.kind != Json::Kind::number || value.text->front() == '-') {
    return std::nullopt;
  }
  const bool is_plain = value.text->find_first_of(".eE") == std::string::npos;
  const auto digits = whole_digits(*value.text);
  if (!digits || !is_at_most(min, *digits) || !is_at_most(*digits, max) ||
      (!is_plain && !is_at_most(*digits, "9007199254740992"))) {
    return std::nullopt;
  }
  return digits;
}

std::optional<std::uint64_t> unsigned_of(const std::optional<std::string>& digits) {
  return digits ? std::optional<std::uint64_t>(std::stoull(*digits)) : std::nullopt;
}

std::optional<std::string> text(const Json& value) {
  return value.kind == Json::Kind::text ? value.text : std::nullopt;
}

bool are_all(const std::string& text, std::string_view allowed) {
  return text.find_first_not_of(allowed) == std::string::npos;
}

bool is_u64(const std::string& text) {
  if (text.empty() || !are_all(text, "0123456789")) {
    return false;
  }
  const auto digits = text.substr(std::min(text.find_first_not_of('0'), text.size() - 1));
  return is_at_most(digits, "18446744073709551615");
}

bool is_witness(const std::string& text) {
  const std::size_t start = text.substr(0, 5) == "ofd2:" ? 5 : text.substr(0, 4) == "ofd:" ? 4 : 0;
  const auto colon = text.find(':', start);
  return start > 0 && colon != std::string::npos && is_u64(text.substr(start, colon - start)) &&
         is_u64(text.substr(colon + 1));
}

LockRecord read_slowly(std::string_view json) {
  LockRecord record;
  const auto document = sessionlock::fuzz::read_json(json);
  if (!document || document->kind != Json::Kind::object) {
    return record;
  }
  for (const auto& [key, value] : document->members) {
    auto words = text(value);
    if (key == "pid") {
      const auto digits = whole(value, "1", "2147483647");
      record.pid = digits ? std::optional<pid_t>(std::stoi(*digits)) : std::nullopt;
    } else if (key == "createdAt") {
      record.created_at = words;
    } else if (key == "starttime") {
      record.starttime = unsigned_of(whole(value, "0", "18446744073709551615"));
    } else if (key == "maxHoldMs") {
      const auto digits = whole(value, "1", "9223372036854775807");
      record.max_hold_ms = digits ? std::optional<std::int64_t>(std::stoll(*digits)) : std::nullopt;
    } else if (key == "lockId") {
      record.lock_id = words && words->size() == 32 && are_all(*words, "0123456789abcdefABCDEF") ? words : std::nullopt;
    } else if (key == "bootId") {
      record.boot_id = words;
    } else if (key == "pidNamespace") {
      record.pid_namespace = unsigned_of(whole(value, "0", "18446744073709551615"));
    } else if (key == "timeNamespace") {
      record.time_namespace = unsigned_of(whole(value, "0", "18446744073709551615"));
    } else if (key == "witness") {
      record.witness = words && is_witness(*words) ? words : std::nullopt;
    } else if (key == "host") {
      record.host = words;
    } else if (key == "label") {
      record.label = words && words->size() <= 1024 ? words : std::nullopt;
    } else if (key == "session") {
      record.session = words;
    }
  }
  return record;
}

bool is_lock_key(const std::optional<std::string>& key) {
  constexpr std::string_view k_keys[] = {"pid",     "createdAt", "starttime",    "maxHoldMs",
                                         "lockId",  "bootId",    "pidNamespace", "timeNamespace",
                                         "witness", "host",      "label",        "session"};
  return key && std::find(std::begin(k_keys), std::end(k_keys), *key) != std::end(k_keys);
}

/// What a file with this text can be, for a text that is one JSON value without escapes.
void check_form(std::string_view json, const LockText& read) {
  const auto document = sessionlock::fuzz::read_json(json);
  if (!document || json.find('\\') != std::string_view::npos) {
    return;
  }
  const auto& members = document->members;
  const bool is_object = document->kind == Json::Kind::object;
  const bool has_lock_key =
      std::any_of(members.begin(), members.end(), [](const auto& member) { return is_lock_key(member.first); });
  FUZZ_CHECK((read.form == LockForm::object) == (is_object && (members.empty() || has_lock_key)));
  FUZZ_CHECK(read.form != LockForm::blank);
  std::optional<pid_t> digits;
  for (const auto& [key, value] : members) {
    if (key == "pid") {
      const auto words = text(value);
      const bool are_digits = words && !words->empty() && are_all(*words, "0123456789") && is_u64(*words);
      const bool is_pid = are_digits && std::stoull(*words) >= 1 && std::stoull(*words) <= 2147483647;
      digits = is_pid ? std::optional<pid_t>(std::stoi(*words)) : std::nullopt;
    }
  }
  FUZZ_CHECK(read.form != LockForm::object || read.digits_pid == digits);
  // What was cut off is still what it was, if its first member was one of a lock.
  if (is_object && !members.empty() && is_lock_key(members.front().first)) {
    const std::string_view beginning = json.substr(0, json.size() / 2);
    const LockForm form = sessionlock::read_lock_text(beginning).form;
    FUZZ_CHECK(form == LockForm::object || form == LockForm::blank);
  }
}

void check_text(std::string_view json, const LockRecord& record) {
  const LockText read = sessionlock::read_lock_text(json);
  FUZZ_CHECK(read.record == record);
  FUZZ_CHECK(!record.pid || (read.form == LockForm::object && !read.digits_pid));
  FUZZ_CHECK(!read.digits_pid || *read.digits_pid > 0);
  FUZZ_CHECK((read.form == LockForm::blank) ==
             (json.find_first_not_of(std::string_view(" \t\r\n\0", 5)) == std::string_view::npos));
  if (json.size() <= sessionlock::fuzz::k_oracle_bytes_max) {
    check_form(json, read);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view json = sessionlock::fuzz::text_of(data, size);
  const LockRecord record = parse_lock_record(json);
  FUZZ_CHECK(size <= sessionlock::k_lock_record_bytes_max || record == LockRecord{});
  if (size <= sessionlock::fuzz::k_oracle_bytes_max) {
    FUZZ_CHECK(record == read_slowly(json));
  }
  if (size <= sessionlock::k_lock_record_bytes_max) {
    check_text(json, record);
  }
  // What is written is what is read, and is written the same again.
  const std::string written = format_lock_record(record);
  FUZZ_CHECK(written.size() > sessionlock::k_lock_record_bytes_max || parse_lock_record(written) == record);
  FUZZ_CHECK(written.back() == '\n');
  return 0;
}
