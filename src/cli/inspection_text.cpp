#include "cli/inspection_text.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include <fmt/core.h>

#include "text/duration_text.hpp"
#include "text/printable_text.hpp"
#include "verdict/explanation.hpp"

namespace sessionlock::cli {
namespace {

std::optional<std::string> path_or_none(const std::filesystem::path& path) {
  return path.empty() ? std::nullopt : std::optional<std::string>{path.native()};
}

std::string age_words(const Inspection& inspection) {
  return inspection.age ? format_age(*inspection.age) : "-";
}

/// How many columns a text takes, for text without wide characters: one for each character of UTF-8.
std::size_t columns(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0U) != 0x80; }));
}

std::string padded(std::string_view text, std::size_t width) {
  std::string result{text};
  result.append(width - std::min(width, columns(text)), ' ');
  return result;
}

constexpr std::size_t k_columns = 7;
using Row = std::array<std::string, k_columns>;
constexpr std::array<std::string_view, k_columns> k_headings{"STATE", "OWNER", "PID", "AGE", "WHY", "LABEL", "SESSION"};

Row row_of(const Inspection& inspection, const std::filesystem::path& directory) {
  const std::string why = reason_words(inspection);
  const auto pid = named_pid(inspection);
  const std::optional<std::string>& label = inspection.record.label;
  return {std::string{to_string(inspection.state)},
          std::string{to_string(inspection.owner)},
          pid ? std::to_string(*pid) : "-",
          age_words(inspection),
          why.empty() ? "-" : why,
          label ? printable_text(*label) : "-",
          relative_to(inspection, directory)};
}

}  // namespace

void write_json(JsonWriter& json, const Inspection& inspection) {
  const LockRecord& record = inspection.record;
  json.begin_object();
  json.member("session", path_or_none(inspection.session_path));
  json.member("lockPath", path_or_none(inspection.lock_path));
  json.member("state", std::string{to_string(inspection.state)});
  json.member("owner", std::string{to_string(inspection.owner)});
  json.member("pid", record.pid ? std::optional<std::int64_t>{*record.pid} : std::nullopt);
  json.member("pidAlive", inspection.pid_alive);
  json.member("createdAt", record.created_at);
  json.member("ageMs", inspection.age ? std::optional<std::int64_t>{inspection.age->count()} : std::nullopt);
  json.key("staleReasons");
  json.begin_array();
  for (const StaleReason reason : inspection.reasons) {
    json.text(to_string(reason));
  }
  json.end_array();
  json.member("removable", inspection.removable && !inspection.obstacle);
  json.member("removed", inspection.removed);
  json.member("lockId", record.lock_id);
  json.member("label", record.label);
  json.member("host", record.host);
  const std::string obstacle = obstacle_words(inspection);
  json.member("obstacle", obstacle.empty() ? std::nullopt : std::optional{obstacle});
  json.member("explanation", inspection.explanation());
  json.end_object();
}

void write_json(JsonWriter& json, const std::filesystem::path& session, const Error& error) {
  const std::optional<std::string> none;
  json.begin_object();
  json.member("session", path_or_none(session));
  json.member("lockPath", error.code == Errc::not_a_lock_file ? path_or_none(error.path) : none);
  json.member("state", none);
  json.member("owner", none);
  json.member("pid", none);
  json.member("pidAlive", false);
  json.member("createdAt", none);
  json.member("ageMs", none);
  json.key("staleReasons");
  json.begin_array();
  json.end_array();
  json.member("removable", false);
  json.member("removed", false);
  json.member("lockId", none);
  json.member("label", none);
  json.member("host", none);
  json.member("obstacle", none);
  json.member("explanation", none);
  json.member("error", error.message());
  json.end_object();
}

std::string reason_words(const Inspection& inspection) {
  std::string words;
  for (const StaleReason reason : inspection.reasons) {
    words += words.empty() ? "" : " ";
    words += to_string(reason);
  }
  return words;
}

std::string describe(const Inspection& inspection, const Palette& palette) {
  const std::string path =
      printable_text((inspection.session_path.empty() ? inspection.lock_path : inspection.session_path).native());
  std::string text = fmt::format("{}: {}\n", palette.paint(Colour::bold, path),
                                 palette.paint(colour_of(inspection.state), to_string(inspection.state)));
  const auto line = [&](std::string_view name, std::string_view value) {
    text += fmt::format("  {} {}\n", palette.paint(Colour::dim, padded(name, 8)), value);
  };
  if (inspection.state != LockState::free) {
    const LockRecord& record = inspection.record;
    const std::string host = record.host ? fmt::format(" on {}", printable_text(*record.host)) : "";
    const std::string_view inherited = inherited_words(inspection);
    const std::string state =
        inherited.empty() ? std::string{to_string(inspection.owner)} : fmt::format("ended; {}", inherited);
    line("owner", fmt::format("{}{}, {}", owner_words(inspection), host, state));
    if (record.label) {
      line("label", printable_text(*record.label));
    }
    if (record.created_at) {
      line("since", fmt::format("{}{}", printable_text(*record.created_at),
                                inspection.age ? fmt::format(" ({} ago)", format_age(*inspection.age)) : ""));
    }
    if (record.lock_id) {
      line("lock id", printable_text(*record.lock_id));
    }
    line("file", printable_text(inspection.lock_path.native()));
    if (const std::string reasons = reason_words(inspection); !reasons.empty()) {
      line("reasons", reasons);
    }
  }
  text += fmt::format("  {}\n", inspection.explanation());
  return text;
}

std::string table(std::span<const Inspection> locks, const std::filesystem::path& directory, const Palette& palette) {
  std::vector<Row> rows;
  rows.reserve(locks.size());
  std::array<std::size_t, k_columns> widths{};
  for (std::size_t i = 0; i < k_columns; ++i) {
    widths[i] = columns(k_headings[i]);
  }
  for (const Inspection& lock : locks) {
    rows.push_back(row_of(lock, directory));
    for (std::size_t i = 0; i < k_columns; ++i) {
      widths[i] = std::max(widths[i], columns(rows.back()[i]));
    }
  }
  std::string text;
  const auto add_line = [&](const auto& cells, Colour first, Colour others) {
    for (std::size_t i = 0; i + 1 < k_columns; ++i) {
      text += palette.paint(i == 0 ? first : others, padded(cells[i], widths[i])) + "  ";
    }
    text += palette.paint(others, cells[k_columns - 1]) + "\n";
  };
  add_line(k_headings, Colour::dim, Colour::dim);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    add_line(rows[i], colour_of(locks[i].state), Colour::plain);
  }
  return text;
}

std::string relative_to(const Inspection& inspection, const std::filesystem::path& directory) {
  const std::filesystem::path& path = inspection.session_path.empty() ? inspection.lock_path : inspection.session_path;
  const std::string prefix = (directory / "").native();
  const std::string& whole = path.native();
  return printable_text(whole.size() > prefix.size() && whole.compare(0, prefix.size(), prefix) == 0
                            ? std::string_view{whole}.substr(prefix.size())
                            : std::string_view{whole});
}

Colour colour_of(LockState state) {
  switch (state) {
    case LockState::free:
      return Colour::green;
    case LockState::held:
      return Colour::yellow;
    case LockState::pending:
      return Colour::cyan;
    case LockState::stale:
      return Colour::red;
  }
  return Colour::plain;
}

}  // namespace sessionlock::cli
