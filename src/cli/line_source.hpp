#pragma once

/// \file
/// Lines from a descriptor, in batches of what can be read at once.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace sessionlock::cli {

/// Limits of a batch. A longer line is a batch alone.
inline constexpr std::size_t k_batch_bytes_max = std::size_t{1024} * 1024;
inline constexpr std::size_t k_batch_lines_max = 1000;

struct Batch {
  enum class End {
    open,         ///< There may be more.
    end,          ///< The input has ended.
    interrupted,  ///< The other descriptor became readable. What was not batched yet is left.
    failed,       ///< Reading failed: `error`. An incomplete last line is left out.
    too_long      ///< The next line is longer than a line may be, and is left out.
  };
  /// Without their newlines. Lifetime: until the next call of `next`.
  std::vector<std::string_view> lines{};
  /// Number of the first of them, or of the line that comes next, counted from 1.
  std::uint64_t first_line{1};
  End end{End::open};
  std::error_code error{};
};

/// Reads lines as they come: blocks only while there is no complete one.
class LineSource {
 public:
  /// `interrupt_fd` becoming readable ends a wait for input. `line_bytes_max` is the longest line.
  LineSource(int fd, int interrupt_fd, std::size_t line_bytes_max);

  /// At least one line, unless `end` says why there is none. A last line without a newline counts.
  [[nodiscard]] Batch next();

 private:
  enum class Read { some, nothing_now, end, failed };
  [[nodiscard]] Read read_some();
  /// Reads until the next line is complete and no more can be read at once.
  void fill();
  [[nodiscard]] bool batch_is_full() const;
  void find_newlines();
  void forget_taken();

  const int fd_;
  const int interrupt_fd_;
  const std::size_t line_bytes_max_;
  std::vector<char> chunk_;
  std::string buffer_;
  std::size_t taken_{0};           // bytes of the buffer that were given out
  std::size_t searched_{0};        // bytes of the buffer in which newlines were looked for
  std::vector<std::size_t> ends_;  // where, beyond `taken_`, newlines are
  std::uint64_t next_line_{1};
  Batch::End end_{Batch::End::open};
  std::error_code error_;
};

}  // namespace sessionlock::cli
