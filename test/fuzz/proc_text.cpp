// What the kernel writes in /proc, and ps(1) prints. A process chooses its own name, so parts of these texts are
// somebody else's words.

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "process/portable/ps_start_token.hpp"
#include "process/proc_text.hpp"
#include "support/target.hpp"

using sessionlock::ProcStat;

namespace {

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == separator) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

std::vector<std::string> words_of(std::string_view line) {
  std::vector<std::string> words;
  for (const std::string& part : split(line, ' ')) {
    for (const std::string& word : split(part, '\t')) {
      if (!word.empty()) {
        words.push_back(word);
      }
    }
  }
  return words;
}

/// Decimal digits, with a value of at most `max`.
std::optional<std::uint64_t> number(const std::string& text, std::uint64_t max) {
  if (text.empty() || text.find_first_not_of("0123456789") != std::string::npos) {
    return std::nullopt;
  }
  std::uint64_t value = 0;
  for (const char c : text) {
    const auto digit = static_cast<std::uint64_t>(c - '0');
    if (value > (max - digit) / 10) {
      return std::nullopt;
    }
    value = value * 10 + digit;
  }
  return value;
}

/// Fields as proc_pid_stat(5) numbers them: 3 is the first one after the name.
std::optional<ProcStat> read_slowly(std::string_view line) {
  const auto name_end = line.rfind(')');
  if (name_end == std::string_view::npos || line.substr(name_end + 1, 1) != " ") {
    return std::nullopt;
  }
  auto fields = split(line.substr(name_end + 2), ' ');
  fields.insert(fields.begin(), {"", "", ""});
  // Field 22 counts only if something shows that it is whole.
  if (fields.size() <= 22) {
    return std::nullopt;
  }
  const bool is_last = fields.size() == 23;
  const auto line_end = fields[22].find('\n');
  if (is_last && line_end == std::string::npos) {
    return std::nullopt;
  }
  fields[22].resize(std::min(line_end, fields[22].size()));
  if (std::any_of(fields.begin() + 3, fields.begin() + 23, [](const auto& field) { return field.empty(); })) {
    return std::nullopt;
  }
  // The zero of a negative number is one, too: `-0` is what from_chars takes for a signed number.
  const std::string& threads_text = fields[20];
  const bool minus_zero =
      threads_text.size() > 1 && threads_text[0] == '-' && threads_text.find_first_not_of('0', 1) == std::string::npos;
  const auto threads = minus_zero ? std::optional<std::uint64_t>(0) : number(threads_text, INT64_MAX);
  const auto start = number(fields[22], UINT64_MAX);
  const std::string& state = fields[3];
  const bool is_letter =
      state.size() == 1 && ((state[0] >= 'a' && state[0] <= 'z') || (state[0] >= 'A' && state[0] <= 'Z'));
  if (!is_letter || !threads || !start) {
    return std::nullopt;
  }
  return ProcStat{state[0], static_cast<std::int64_t>(*threads), *start};
}

bool are_equal(const std::optional<ProcStat>& a, const std::optional<ProcStat>& b) {
  return a.has_value() == b.has_value() &&
         (!a || (a->state == b->state && a->threads == b->threads && a->start_time_ticks == b->start_time_ticks));
}

void check_stat(std::string_view line) {
  const auto stat = sessionlock::parse_proc_stat(line);
  FUZZ_CHECK(are_equal(stat, read_slowly(line)));
  // Cut off anywhere it says the same or nothing, unless the name has a parenthesis to be mistaken for its end.
  if (stat && std::count(line.begin(), line.end(), ')') == 1 && line.size() < 512) {
    for (std::size_t size = 0; size < line.size(); ++size) {
      const auto part = sessionlock::parse_proc_stat(line.substr(0, size));
      FUZZ_CHECK(!part || are_equal(part, stat));
    }
  }
}

void check_status(std::string_view text) {
  bool expected = true;
  for (const std::string& line : split(text, '\n')) {
    const auto words = words_of(line);
    if (!words.empty() && words[0] == "NSpid:") {
      expected = words.size() == 2;
      break;
    }
  }
  FUZZ_CHECK(sessionlock::status_is_of_own_namespace(text) == expected);
}

void check_boot_time(std::string_view text) {
  std::optional<std::int64_t> expected;
  auto lines = split(text, '\n');
  lines.pop_back();  // was not ended
  for (const std::string& line : lines) {
    const auto words = words_of(line);
    if (!words.empty() && words[0] == "btime") {
      if (words.size() == 2) {
        const bool negative = words[1][0] == '-';
        const auto seconds = number(words[1].substr(negative ? 1 : 0), std::uint64_t{INT64_MAX} + (negative ? 1 : 0));
        if (seconds) {
          expected = negative ? static_cast<std::int64_t>(0 - *seconds) : static_cast<std::int64_t>(*seconds);
        }
      }
      break;
    }
  }
  FUZZ_CHECK(sessionlock::parse_btime(text) == expected);
}

void check_time_offsets(std::string_view text) {
  auto lines = split(text, '\n');
  if (lines.back().empty()) {
    lines.pop_back();
  }
  const bool expected = !lines.empty() && std::all_of(lines.begin(), lines.end(), [](const std::string& line) {
    const auto words = words_of(line);
    return words.size() == 3 && words[1] == "0" && words[2] == "0";
  });
  FUZZ_CHECK(sessionlock::timens_offsets_are_zero(text) == expected);
}

void check_locks(std::string_view text) {
  const auto holder = sessionlock::parse_flock_holder(text, 0xfe, 0, 12345);
  FUZZ_CHECK(!holder || *holder > 0);
  FUZZ_CHECK(!holder || text.find(std::to_string(*holder)) != std::string_view::npos);
  FUZZ_CHECK(!holder || text.find("FLOCK") != std::string_view::npos);
}

void check_ps(std::string_view text) {
  // A token is its own token.
  if (const auto token = sessionlock::parse_lstart(text)) {
    FUZZ_CHECK(sessionlock::parse_lstart(*token) == token);
    FUZZ_CHECK(token->find_first_of("\n\t") == std::string::npos && token->find("  ") == std::string::npos);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text = sessionlock::fuzz::text_of(data, size);
  check_stat(text);
  check_status(text);
  check_boot_time(text);
  check_time_offsets(text);
  check_locks(text);
  check_ps(text);
  return 0;
}
