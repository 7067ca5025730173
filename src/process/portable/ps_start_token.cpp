#include "process/portable/ps_start_token.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <vector>

#include "system/per_process.hpp"
#include "system/system.hpp"

namespace sessionlock {
namespace {

constexpr std::size_t k_output_bytes_max = 4096;
constexpr std::size_t k_entries_max = 256;
constexpr std::array<std::string_view, 7> k_days{"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"};
constexpr std::array<std::string_view, 12> k_months{"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                                    "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
constexpr std::string_view k_blanks = " \t\n";

std::vector<std::string_view> words_of(std::string_view text) {
  std::vector<std::string_view> words;
  for (auto start = text.find_first_not_of(k_blanks); start != std::string_view::npos;) {
    const auto end = std::min(text.find_first_of(k_blanks, start), text.size());
    words.push_back(text.substr(start, end - start));
    start = text.find_first_not_of(k_blanks, end);
  }
  return words;
}

/// Digits where the pattern has `0`, the pattern's own character elsewhere.
bool looks_like(std::string_view text, std::string_view pattern) {
  return std::equal(text.begin(), text.end(), pattern.begin(), pattern.end(),
                    [](char c, char wanted) { return wanted == '0' ? c >= '0' && c <= '9' : c == wanted; });
}

template <std::size_t Size>
bool is_one_of(const std::array<std::string_view, Size>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

PerProcess<StartTokenMemory> g_memory;

}  // namespace

std::optional<std::string> parse_lstart(std::string_view output) {
  const auto words = words_of(output);
  if (words.size() != 5 || !is_one_of(k_days, words[0]) || !is_one_of(k_months, words[1]) ||
      !(looks_like(words[2], "0") || looks_like(words[2], "00")) || !looks_like(words[3], "00:00:00") ||
      !looks_like(words[4], "0000")) {
    return std::nullopt;
  }
  std::string token;
  for (const std::string_view word : words) {
    token += token.empty() ? "" : " ";
    token += word;
  }
  return token;
}

std::optional<std::string> ps_start_token(pid_t pid, const PsOptions& options) {
  if (pid < 1) {
    return std::nullopt;
  }
  std::array<std::string, 5> arguments{options.program, "-p", std::to_string(pid), "-o", "lstart="};
  const char* const path = std::getenv("PATH");  // NOLINT(concurrency-mt-unsafe): as any program that starts another
  std::array<std::string, 3> variables{"LC_ALL=C", "TZ=UTC", std::string("PATH=") + (path == nullptr ? "" : path)};
  std::array<char*, 6> argv{};
  std::array<char*, 4> envp{};
  std::transform(arguments.begin(), arguments.end(), argv.begin(), [](std::string& text) { return text.data(); });
  std::transform(variables.begin(), variables.end(), envp.begin(), [](std::string& text) { return text.data(); });
  const auto captured = sys::capture_output(options.program, argv.data(), envp.data(), k_output_bytes_max,
                                            std::chrono::steady_clock::now() + options.timeout);
  return captured.ok() ? parse_lstart(captured.output) : std::nullopt;
}

std::optional<std::string> remembered_ps_start_token(pid_t pid) {
  StartTokenMemory& memory = g_memory.get();
  if (auto token = memory.find(pid, std::chrono::steady_clock::now())) {
    return token;
  }
  auto token = ps_start_token(pid);
  if (token) {
    memory.store(pid, *token, std::chrono::steady_clock::now());
  }
  return token;
}

std::optional<std::string> StartTokenMemory::find(pid_t pid, Time now) {
  const MutexLock lock(mutex_);
  const auto found = entries_.find(pid);
  return found != entries_.end() && now < found->second.until ? std::optional(found->second.token) : std::nullopt;
}

void StartTokenMemory::store(pid_t pid, const std::string& token, Time now) {
  const MutexLock lock(mutex_);
  if (entries_.size() >= k_entries_max) {
    entries_.clear();
  }
  entries_[pid] = {token, now + k_start_token_memory};
}

}  // namespace sessionlock
