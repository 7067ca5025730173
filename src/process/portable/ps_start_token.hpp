#pragma once

/// \file
/// Start tokens from ps(1), for POSIX systems without `/proc`. Compiled and tested on Linux too, where nothing asks for
/// them.

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include <sys/types.h>

#include "system/mutex.hpp"

namespace sessionlock {

/// The token in what `ps -o lstart=` printed, `Fri Nov 20 03:31:48 2026`, with single blanks; none for anything else.
[[nodiscard]] std::optional<std::string> parse_lstart(std::string_view output);

struct PsOptions {
  const char* program{"ps"};
  std::chrono::milliseconds timeout{std::chrono::seconds{2}};
};
/// Asks ps(1), in the C locale and in UTC, whatever this process's are. None for a pid below 1, for one that nobody
/// has, and where ps is missing or slower than the time limit.
[[nodiscard]] std::optional<std::string> ps_start_token(pid_t pid, const PsOptions& options = {});
/// The same, remembered for `k_start_token_memory`.
[[nodiscard]] std::optional<std::string> remembered_ps_start_token(pid_t pid);

/// How long an answer counts: a claim asks several times in a row, but a pid that is given out again must not keep the
/// old token.
inline constexpr std::chrono::seconds k_start_token_memory{1};

/// Answers of the last moments. Thread safety: safe.
class StartTokenMemory {
 public:
  using Time = std::chrono::steady_clock::time_point;
  [[nodiscard]] std::optional<std::string> find(pid_t pid, Time now);
  void store(pid_t pid, const std::string& token, Time now);

 private:
  struct Entry {
    std::string token;
    Time until;
  };
  Mutex mutex_;
  std::map<pid_t, Entry> entries_ GUARDED_BY(mutex_);
};

}  // namespace sessionlock
