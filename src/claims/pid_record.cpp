#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include <fmt/core.h>

#include <sessionlock/lock_record.hpp>
#include <sessionlock/pid_record.hpp>

#include "claims/pid_record.hpp"
#include "process/portable/ps_start_token.hpp"
#include "record/lock_text.hpp"
#include "text/json_grammar.hpp"

namespace sessionlock {
namespace {

// The JSON form is read by the parser of lock records: it proves that the text is one JSON object, and says what its
// `pid` is. What that parser does not keep, the other members, are then taken out of a text that is known to be JSON.

constexpr std::string_view k_pid = "pid";
constexpr std::string_view k_start_token = "startToken";
constexpr std::string_view k_boot_id = "bootId";
constexpr std::string_view k_pid_namespace = "pidNamespace";
constexpr std::string_view k_time_namespace = "timeNamespace";
constexpr std::string_view k_witness = "witness";
constexpr std::array k_own_fields{k_pid, k_start_token, k_boot_id, k_pid_namespace, k_time_namespace, k_witness};
constexpr std::string_view k_unknown = "unknown";
constexpr std::string_view k_json_space = " \t\n\r";
/// Other programs pad, end lines as on other systems, or write the NUL of a string as well.
constexpr std::string_view k_blanks(" \t\n\r\0", 5);
constexpr std::string_view k_after_pid(": \t\r\0", 5);

std::string_view trim(std::string_view text, std::string_view blanks = k_json_space) {
  const auto start = text.find_first_not_of(blanks);
  return start == std::string_view::npos ? std::string_view{}
                                         : text.substr(start, text.find_last_not_of(blanks) - start + 1);
}

/// The text of a JSON string; none for any other value.
std::optional<std::string> text_of(std::string_view json) {
  return parse_lock_record(fmt::format("{{\"host\":{}}}", json)).host;
}

/// A text as a JSON string.
std::string json_of(const std::string& text) {
  LockRecord carrier;
  carrier.host = text;
  const std::string object = format_lock_record(carrier);  // one member on a line of its own
  const auto start = object.find(": ") + 2;
  return object.substr(start, object.find('\n', start) - start);
}

/// Where the JSON value or key that begins here ends: at the first of these outside of strings and brackets.
std::size_t end_of(std::string_view json, std::size_t at, std::string_view terminators) {
  int depth = 0;
  bool in_string = false;
  for (; at < json.size(); ++at) {
    const char c = json[at];
    if (in_string) {
      at += c == '\\' ? 1 : 0;
      in_string = c != '"';
    } else if (depth == 0 && terminators.find(c) != std::string_view::npos) {
      break;
    } else if (c == '"') {
      in_string = true;
    } else {
      depth += c == '{' || c == '[' ? 1 : c == '}' || c == ']' ? -1 : 0;
    }
  }
  return std::min(at, json.size());
}

struct Member {
  std::string name;
  std::string_view value;
  /// Both, as they are written.
  std::string_view text;
};

/// The members of what stands between an object's braces. The text is known to be JSON.
std::vector<Member> members_of(std::string_view inside) {
  std::vector<Member> members;
  for (std::size_t at = 0; at < inside.size();) {
    const std::size_t end = end_of(inside, at, ",");
    const std::string_view text = trim(inside.substr(at, end - at));
    const std::size_t colon = end_of(text, 0, ":");
    members.push_back(
        {text_of(trim(text.substr(0, colon))).value_or(""), trim(text.substr(std::min(colon + 1, text.size()))), text});
    at = end + 1;
  }
  return members;
}

/// A number of digits alone, without leading zeros.
template <class Integer>
std::optional<Integer> plain_number(std::string_view text) {
  Integer value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = error == std::errc{} && end == text.data() + text.size();
  if (!whole || text.front() == '-' || (text.front() == '0' && text.size() > 1)) {
    return std::nullopt;
  }
  return value;
}

/// The two kinds of tokens that this library makes.
bool is_token(std::string_view token) {
  return is_tick_token(token) || parse_lstart(token) == token;
}

void set_token(PidRecord& record, std::string_view token) {
  if (is_token(token)) {
    record.start_token = token;
  } else {
    record.corrupt_token = token != k_unknown;
  }
}

/// The members that a JSON form shares with lock records; one that is malformed is an application's own.
void take_shared_fields(PidRecord& record, LockRecord& lock) {
  record.pid = lock.pid;
  record.boot_id = std::move(lock.boot_id);
  record.pid_namespace = lock.pid_namespace;
  record.time_namespace = lock.time_namespace;
  record.witness = std::move(lock.witness);
}

/// Whether a member is one of those that the record has already.
bool is_taken(const PidRecord& record, std::string_view name) {
  return name == k_pid || (name == k_boot_id && record.boot_id) || (name == k_pid_namespace && record.pid_namespace) ||
         (name == k_time_namespace && record.time_namespace) || (name == k_witness && record.witness);
}

PidRecord parse_json(std::string_view text) {
  PidRecord record;
  record.format = PidFileFormat::json;
  LockRecord lock = parse_lock_record(text);
  if (!lock.pid) {
    return record;
  }
  take_shared_fields(record, lock);
  for (const Member& member : members_of(text.substr(1, text.size() - 2))) {
    if (member.name == k_start_token) {  // of duplicates the last one counts
      record.start_token.reset();
      record.corrupt_token = false;
      // Other programs write the number as a number.
      const auto token = text_of(member.value);
      if (member.value != "null") {
        set_token(record, token ? std::string_view(*token) : member.value);
      }
    } else if (!is_taken(record, member.name)) {
      record.extra_fields += record.extra_fields.empty() ? "" : ", ";
      record.extra_fields += member.text;
    }
  }
  return record;
}

/// The first line that is not blank, without the blanks at its ends.
std::string_view first_line(std::string_view text) {
  const auto start = text.find_first_not_of(k_blanks);
  if (start == std::string_view::npos) {
    return {};
  }
  text.remove_prefix(start);
  return trim(text.substr(0, text.find('\n')), k_blanks);
}

PidRecord parse_text(std::string_view text) {
  PidRecord record;
  const std::string_view line = first_line(text);
  const auto separator = line.find_first_of(k_after_pid);
  const auto pid = plain_number<std::int32_t>(line.substr(0, separator));
  if (!pid || *pid < 1) {
    return record;
  }
  record.pid = *pid;
  if (separator != std::string_view::npos) {
    record.format = line[separator] == ':' ? PidFileFormat::colon : PidFileFormat::space;
    set_token(record, trim(line.substr(separator + 1), k_blanks));
  }
  return record;
}

}  // namespace

PidText read_pid_text(std::string_view text) {
  const std::string_view inside = trim(text, k_blanks);
  PidText read{PidTextForm::record, inside.starts_with('{') ? parse_json(inside) : parse_text(text)};
  if (read.record.pid) {
    return read;
  }
  const LockText rest = read_lock_text(text);
  read.record.digits_pid = rest.digits_pid;
  switch (rest.form) {
    case LockForm::blank:
      read.form = PidTextForm::blank;
      break;
    case LockForm::digits:
      read.form = PidTextForm::no_pid;
      break;
    case LockForm::object:
      read.form = is_json_value(inside) ? PidTextForm::no_pid : PidTextForm::torn;
      break;
    case LockForm::other:
      read.form = PidTextForm::other;
      break;
  }
  return read;
}

PidRecord parse_pid_record(std::string_view text) {
  return read_pid_text(text).record;
}

bool is_tick_token(std::string_view token) {
  return plain_number<std::uint64_t>(token).has_value();
}

bool means_owner_of(const PidRecord& claimed, const PidRecord& found) {
  if (!found.pid || found.pid != claimed.pid || found.corrupt_token) {
    return false;
  }
  if ((found.boot_id && claimed.boot_id && found.boot_id != claimed.boot_id) ||
      (found.pid_namespace && claimed.pid_namespace && found.pid_namespace != claimed.pid_namespace)) {
    return false;
  }
  const bool wrote_token = claimed.start_token && claimed.format != PidFileFormat::plain;
  return found.start_token || wrote_token ? found.start_token == claimed.start_token : true;
}

namespace {

std::string format_json(const PidRecord& record) {
  std::string text = fmt::format("{{\"{}\": {}", k_pid, record.pid.value_or(0));
  const auto add = [&](std::string_view name, const std::string& json) {
    text += fmt::format(", \"{}\": {}", name, json);
  };
  if (record.start_token) {
    add(k_start_token, json_of(*record.start_token));
  }
  if (record.boot_id) {
    add(k_boot_id, json_of(*record.boot_id));
  }
  if (record.pid_namespace) {
    add(k_pid_namespace, std::to_string(*record.pid_namespace));
  }
  if (record.time_namespace) {
    add(k_time_namespace, std::to_string(*record.time_namespace));
  }
  if (record.witness) {
    add(k_witness, json_of(*record.witness));
  }
  if (!record.extra_fields.empty()) {
    text += ", " + record.extra_fields;
  }
  return text + "}\n";
}

}  // namespace

std::string format_pid_record(const PidRecord& record) {
  const std::string pid = fmt::format("{}", record.pid.value_or(0));
  switch (record.format) {
    case PidFileFormat::colon:
      return fmt::format("{}:{}\n", pid, record.start_token.value_or(std::string(k_unknown)));
    case PidFileFormat::space:
      return record.start_token ? fmt::format("{} {}\n", pid, *record.start_token) : pid + "\n";
    case PidFileFormat::plain:
      return pid + "\n";
    case PidFileFormat::json:
      break;
  }
  return format_json(record);
}

bool are_extra_fields(std::string_view fields) {
  if (trim(fields).empty()) {
    return true;
  }
  // With a pid before and after: braces or a comma at an end would make it no JSON, or another pid.
  const std::string text = fmt::format("{{\"pid\": 1, {}, \"pid\": 2}}", fields);
  if (parse_lock_record(text).pid != 2) {
    return false;
  }
  const auto members = members_of(fields);
  return std::none_of(members.begin(), members.end(), [](const Member& member) {
    return std::find(k_own_fields.begin(), k_own_fields.end(), member.name) != k_own_fields.end();
  });
}

std::optional<ProcessIdentity> recorded_process(const PidRecord& record) {
  if (!record.pid || record.corrupt_token) {
    return std::nullopt;
  }
  ProcessIdentity identity = this_process();
  if ((record.boot_id && *record.boot_id != identity.boot_id) ||
      (record.pid_namespace && *record.pid_namespace != identity.pid_namespace)) {
    return std::nullopt;
  }
  identity.pid = *record.pid;
  identity.time_namespace = record.time_namespace.value_or(identity.time_namespace);
  identity.start_time_ticks.reset();
  if (record.start_token) {
    identity.start_time_ticks = plain_number<std::uint64_t>(*record.start_token);
    if (!identity.start_time_ticks) {
      return std::nullopt;
    }
  }
  return identity;
}

}  // namespace sessionlock
