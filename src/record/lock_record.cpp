#include <sessionlock/lock_record.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <simdjson.h>

#include "record/lock_fields.hpp"
#include "record/witness.hpp"
#include "text/json_grammar.hpp"
#include "text/json_text.hpp"
#include "text/simdjson_use.hpp"

namespace sessionlock {
namespace {

// How the text is read, and why it is not left to simdjson alone.
//
// simdjson's first stage proves UTF-8, complete strings and no raw control characters, and finds the tokens. Its
// On-demand interface then checks nothing but what it is asked for: a value that is skipped may be any garbage with
// balanced brackets. Its readers of numbers and texts have one error both for a value that is merely unusable (a number
// that is too big, half a surrogate pair: one field is dropped) and for one that is none (the text is no JSON). So
// everything is walked, skipped values too (json_grammar), and each scalar's token is judged here.
namespace ondemand = simdjson::ondemand;

// --- Numbers that are whole -----------------------------------------------------------------------------------------

/// Beyond this a double no longer has every whole number, so that who wrote `….0` may have meant a neighbour.
constexpr std::uint64_t k_exact_in_double = std::uint64_t{1} << 53;

/// Replaces `value` by `value * 10^zeros + digit`, unless that is more than `k_exact_in_double`.
bool append_digit(std::uint64_t& value, std::size_t zeros, unsigned digit) {
  for (; zeros > 0 && value > 0; --zeros) {
    if (value > k_exact_in_double / 10) {
      return false;
    }
    value *= 10;
  }
  value += digit;
  return value <= k_exact_in_double;
}

/// The exact value of a number with a fraction or an exponent, if it is whole and at most `k_exact_in_double`. Not by
/// way of a double, which would round `1e-400` to 0 and `4.99999999999999999999` to 5.
std::optional<std::uint64_t> whole_decimal(std::string_view number) {
  const std::size_t exponent_at = number.find_first_of("eE");
  std::uint64_t value = 0;
  std::int64_t scale = 0;  // The number is `value` with `zeros` zeros after it, times ten to the power of `scale`.
  std::size_t zeros = 0;
  bool in_fraction = false;
  for (const char c : number.substr(0, exponent_at)) {
    if (c == '.') {
      in_fraction = true;
      continue;
    }
    scale -= in_fraction ? 1 : 0;
    if (c == '0') {
      ++zeros;
    } else {
      if (!append_digit(value, zeros + 1, static_cast<unsigned>(c - '0'))) {
        return std::nullopt;
      }
      zeros = 0;
    }
  }
  if (value == 0) {
    return value;
  }
  if (exponent_at != std::string_view::npos) {
    std::string_view digits = number.substr(exponent_at + 1);
    digits.remove_prefix(digits.front() == '+' ? 1 : 0);
    std::int32_t exponent{};
    if (std::from_chars(digits.data(), digits.data() + digits.size(), exponent).ec != std::errc{}) {
      return std::nullopt;
    }
    scale += exponent;
  }
  scale += static_cast<std::int64_t>(zeros);
  if (scale < 0 || !append_digit(value, static_cast<std::size_t>(scale), 0)) {
    return std::nullopt;
  }
  return value;
}

/// The value of a JSON number that is whole and at most `max`. A sign is refused, also before a zero.
std::optional<std::uint64_t> whole_number(std::string_view number, std::uint64_t max) {
  std::uint64_t value{};
  const char* const end = number.data() + number.size();
  const auto [rest, error] = std::from_chars(number.data(), end, value);
  if (rest != end) {
    const std::optional<std::uint64_t> decimal = number.front() == '-' ? std::nullopt : whole_decimal(number);
    return decimal && *decimal <= max ? decimal : std::nullopt;
  }
  if (error != std::errc{} || value > max) {
    return std::nullopt;
  }
  return value;
}

// --- Fields ---------------------------------------------------------------------------------------------------------

enum class Field {
  pid,
  created_at,
  starttime,
  max_hold_ms,
  lock_id,
  boot_id,
  pid_namespace,
  time_namespace,
  witness,
  host,
  label,
  session,
  unknown
};

/// How each field's line begins, in the order of `Field`, which is also the order in the file. Whole, because it is
/// written far more often than it is looked for.
constexpr std::array<std::string_view, 12> k_line_beginnings{
    ",\n  \"pid\": ",     ",\n  \"createdAt\": ", ",\n  \"starttime\": ",    ",\n  \"maxHoldMs\": ",
    ",\n  \"lockId\": ",  ",\n  \"bootId\": ",    ",\n  \"pidNamespace\": ", ",\n  \"timeNamespace\": ",
    ",\n  \"witness\": ", ",\n  \"host\": ",      ",\n  \"label\": ",        ",\n  \"session\": "};

constexpr std::array<std::string_view, k_line_beginnings.size()> k_field_names = [] {
  constexpr std::string_view k_before = ",\n  \"";
  constexpr std::string_view k_after = "\": ";
  std::array<std::string_view, k_line_beginnings.size()> names;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const std::string_view line = k_line_beginnings[i];
    names[i] = line.substr(k_before.size(), line.size() - k_before.size() - k_after.size());
  }
  return names;
}();

Field field_named(std::string_view name) {
  const auto found = std::find(k_field_names.begin(), k_field_names.end(), name);
  return static_cast<Field>(found - k_field_names.begin());  // behind the last one: unknown
}

/// A valid value, as far as a field may want it.
struct Value {
  enum class Kind { text, number, other };
  Kind kind{Kind::other};
  /// Of a text, without quotes and escapes; of a number, its token.
  std::string_view text{};
};

std::optional<std::uint64_t> whole_number(const Value& value, std::uint64_t max) {
  return value.kind == Value::Kind::number ? whole_number(value.text, max) : std::nullopt;
}

template <class Integer>
std::optional<Integer> positive(const Value& value) {
  const auto number = whole_number(value, static_cast<std::uint64_t>(std::numeric_limits<Integer>::max()));
  return number && *number > 0 ? std::optional<Integer>{static_cast<Integer>(*number)} : std::nullopt;
}

bool any_text(std::string_view) {
  return true;
}

bool is_lock_id(std::string_view text) {
  return text.size() == 32 && is_hex(text);
}

bool is_witness(std::string_view text) {
  return parse_witness(text).has_value();
}

bool is_label(std::string_view text) {
  return text.size() <= k_label_bytes_max;
}

std::optional<std::string> text_if(bool (*accepted)(std::string_view), const Value& value) {
  return value.kind == Value::Kind::text && accepted(value.text) ? std::optional<std::string>{value.text}
                                                                 : std::nullopt;
}

/// Sets a field to its value, or to nothing if that is malformed: also where an earlier duplicate was well-formed.
void assign(LockRecord& record, Field field, const Value& value) {
  constexpr auto u64_max = std::numeric_limits<std::uint64_t>::max();
  switch (field) {
    case Field::pid:
      record.pid = positive<std::int32_t>(value);
      break;
    case Field::created_at:
      record.created_at = text_if(any_text, value);
      break;
    case Field::starttime:
      record.starttime = whole_number(value, u64_max);
      break;
    case Field::max_hold_ms:
      record.max_hold_ms = positive<std::int64_t>(value);
      break;
    case Field::lock_id:
      record.lock_id = text_if(is_lock_id, value);
      break;
    case Field::boot_id:
      record.boot_id = text_if(any_text, value);
      break;
    case Field::pid_namespace:
      record.pid_namespace = whole_number(value, u64_max);
      break;
    case Field::time_namespace:
      record.time_namespace = whole_number(value, u64_max);
      break;
    case Field::witness:
      record.witness = text_if(is_witness, value);
      break;
    case Field::host:
      record.host = text_if(any_text, value);
      break;
    case Field::label:
      record.label = text_if(is_label, value);
      break;
    case Field::session:
      record.session = text_if(any_text, value);
      break;
    case Field::unknown:
      break;
  }
}

// --- Walking the document -------------------------------------------------------------------------------------------

std::string_view without_trailing_space(std::string_view token) {
  const std::size_t last = token.find_last_not_of(" \t\n\r");
  return token.substr(0, last == std::string_view::npos ? 0 : last + 1);
}

bool is_container(std::string_view token) {
  return !token.empty() && (token.front() == '{' || token.front() == '[');
}

/// Judges a string value and moves past it. Returns false if the text is no JSON.
bool read_string(ondemand::value& json, std::string_view token, Value& value) {
  if (token.size() < 2 || token.back() != '"') {
    return false;
  }
  const std::string_view body = token.substr(1, token.size() - 2);
  if (body.find('\\') == std::string_view::npos) {
    value = {Value::Kind::text, body};
    // The iterator must be told, else it would take `"a":` inside an array for a key and accept it.
    ondemand::raw_json_string consumed;
    return json.get_raw_json_string().get(consumed) == simdjson::SUCCESS;
  }
  if (!json_escapes_are_valid(body)) {
    return false;
  }
  // Half a surrogate pair is good JSON, but no text that could be written in UTF-8: it costs its own field only.
  std::string_view text;
  if (json.get_string().get(text) == simdjson::SUCCESS) {
    value = {Value::Kind::text, text};
  }
  return true;
}

/// Judges a value that is no container. Returns false if the text is no JSON.
bool read_scalar(ondemand::value& json, std::string_view token, Value& value) {
  token = without_trailing_space(token);
  if (token.empty()) {
    return false;
  }
  if (token.front() == '"') {
    return read_string(json, token, value);
  }
  if (is_json_number(token)) {
    value = {Value::Kind::number, token};
    return true;
  }
  return is_json_literal(token);
}

/// A key with its escapes, from behind the opening quote (stage 1 has seen that there is a closing one).
std::string_view key_body(const char* start) {
  const char* end = start;
  while (*end != '"') {
    while (*end != '"' && *end != '\\') {
      ++end;
    }
    end += *end == '\\' ? 2 : 0;
  }
  return {start, static_cast<std::size_t>(end - start)};
}

/// Which field a key names, however it is escaped. Returns false if the text is no JSON.
bool read_key(ondemand::field& json, Field& field) {
  std::string_view key = key_body(json.key().raw());
  if (key.find('\\') != std::string_view::npos) {
    if (!json_escapes_are_valid(key)) {
      return false;
    }
    if (json.unescaped_key().get(key) != simdjson::SUCCESS) {
      key = {};
    }
  }
  field = field_named(key);
  return true;
}

/// Moves past an object or array, and judges it. What simdjson takes for its end is where its brackets balance: if that
/// is no value, the text is no JSON. Returns false then.
bool skip_container(ondemand::value& json, char bracket) {
  std::string_view text;
  ondemand::array array;
  ondemand::object object;
  const bool is_skipped =
      bracket == '['
          ? json.get_array().get(array) == simdjson::SUCCESS && array.raw_json().get(text) == simdjson::SUCCESS
          : json.get_object().get(object) == simdjson::SUCCESS && object.raw_json().get(text) == simdjson::SUCCESS;
  return is_skipped && is_json_value(text);
}

/// Reads the members of the outermost object. Returns false if the text is no JSON.
bool walk_members(ondemand::object& object, LockRecord& record) {
  for (simdjson::simdjson_result<ondemand::field> member : object) {
    if (member.error() != simdjson::SUCCESS) {
      return false;
    }
    ondemand::field& json = member.value_unsafe();
    Field field{};
    if (!read_key(json, field)) {
      return false;
    }
    ondemand::value& member_value = json.value();
    const std::string_view token = member_value.raw_json_token();
    Value value;
    if (!(is_container(token) ? skip_container(member_value, token.front())
                              : read_scalar(member_value, token, value))) {
      return false;
    }
    assign(record, field, value);
  }
  return true;
}

/// Throws where simdjson cannot set up a parser, for which a want of memory is the only reason: that must not look like
/// a lock without an owner.
void require_resources(simdjson::error_code error) {
  if (error != simdjson::SUCCESS) {
    throw std::bad_alloc{};
  }
}

/// What reading needs besides the text: simdjson's tables, and a copy of the text with room for simdjson to read past
/// it.
class Workspace {
 public:
  explicit Workspace(std::size_t text_bytes_max)
      : capacity_(text_bytes_max + simdjson::SIMDJSON_PADDING), text_(std::make_unique<char[]>(capacity_)) {
    const SimdjsonUse use;
    // No text nests deeper than it is long; unoptimised builds of simdjson keep a table that deep.
    require_resources(parser_.allocate(text_bytes_max, text_bytes_max + 2));
  }

  LockRecord read(std::string_view json) {
    std::memcpy(text_.get(), json.data(), json.size());
    // A walk may step past the end of a torn text; what it meets there must not be left over from the text before.
    std::memset(text_.get() + json.size(), 0, simdjson::SIMDJSON_PADDING);
    LockRecord record;
    ondemand::document document;
    ondemand::object object;
    const simdjson::error_code error = parser_.iterate(text_.get(), json.size(), capacity_).get(document);
    if (error == simdjson::MEMALLOC) {
      require_resources(error);
    }
    if (error != simdjson::SUCCESS || document.get_object().get(object) != simdjson::SUCCESS ||
        !walk_members(object, record) || document.current_location().error() != simdjson::OUT_OF_BOUNDS) {
      return {};
    }
    return record;
  }

 private:
  std::size_t capacity_;
  std::unique_ptr<char[]> text_;
  ondemand::parser parser_;
};

/// Enough for nearly every record, so that a thread keeps a small workspace; what is longer gets one for the occasion.
constexpr std::size_t k_usual_bytes = 2048;

// Trivially destructible, hence readable until the thread is gone. Locks may still be read while a thread, or the
// program, is being torn down and the kept workspace is not there any more.
thread_local bool t_workspace_destroyed = false;

struct KeptWorkspace {
  Workspace workspace{k_usual_bytes};
  ~KeptWorkspace() { t_workspace_destroyed = true; }
};

// --- Writing --------------------------------------------------------------------------------------------------------

/// Writes the fields that are there, one a line.
class Writer {
 public:
  Writer() { out_.reserve(512); }

  template <class Integer>
  void number(Field field, const std::optional<Integer>& value) {
    if (value) {
      start_line(field);
      const fmt::format_int digits{*value};
      out_.append(digits.data(), digits.size());
    }
  }

  void text(Field field, const std::optional<std::string>& value) {
    if (value) {
      start_line(field);
      json::append_string(out_, *value);
    }
  }

  std::string finish() {
    if (out_.empty()) {
      return "{}\n";
    }
    out_.front() = '{';  // where the first line has its comma
    out_ += "\n}\n";
    return std::move(out_);
  }

 private:
  void start_line(Field field) { out_ += k_line_beginnings[static_cast<std::size_t>(field)]; }

  std::string out_;
};

}  // namespace

LockRecord parse_lock_record(std::string_view json) {
  // Whether a byte-order mark is refused or ignored depends on the version of simdjson; it is no part of a JSON text.
  constexpr std::string_view byte_order_mark = "\xef\xbb\xbf";
  if (json.empty() || json.size() > k_lock_record_bytes_max || json.substr(0, 3) == byte_order_mark) {
    return {};
  }
  if (json.size() > k_usual_bytes || t_workspace_destroyed) {
    return Workspace{json.size()}.read(json);
  }
  thread_local KeptWorkspace kept;
  return kept.workspace.read(json);
}

bool is_lock_field(std::string_view name) {
  return field_named(name) != Field::unknown;
}

bool begins_lock_field(std::string_view name) {
  return std::any_of(k_field_names.begin(), k_field_names.end(),
                     [&](std::string_view field) { return field.starts_with(name); });
}

std::string format_lock_record(const LockRecord& record) {
  Writer writer;
  writer.number(Field::pid, record.pid);
  writer.text(Field::created_at, record.created_at);
  writer.number(Field::starttime, record.starttime);
  writer.number(Field::max_hold_ms, record.max_hold_ms);
  writer.text(Field::lock_id, record.lock_id);
  writer.text(Field::boot_id, record.boot_id);
  writer.number(Field::pid_namespace, record.pid_namespace);
  writer.number(Field::time_namespace, record.time_namespace);
  writer.text(Field::witness, record.witness);
  writer.text(Field::host, record.host);
  writer.text(Field::label, record.label);
  writer.text(Field::session, record.session);
  return writer.finish();
}

}  // namespace sessionlock
