#pragma once

/// \file
/// What is different when a person looks on: colour and progress.

#include <chrono>
#include <cstddef>
#include <string>
#include <string_view>

namespace sessionlock::cli {

enum class Colour { plain, bold, dim, green, yellow, red, cyan };

/// Colours for standard output, where that is a terminal that wants them (`NO_COLOR`, no-color.org; `TERM=dumb`).
class Palette {
 public:
  /// For standard output.
  static Palette for_output();
  explicit Palette(bool coloured) : coloured_(coloured) {}
  [[nodiscard]] std::string paint(Colour colour, std::string_view text) const;

 private:
  bool coloured_;
};

/// A bar on standard error, if that is a terminal and the work takes longer than a moment. Wiped by the destructor.
class ProgressBar {
 public:
  explicit ProgressBar(std::string_view work);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  void show(std::size_t done, std::size_t total);

 private:
  const std::string work_;
  const bool wanted_;
  std::chrono::steady_clock::time_point next_;
  bool drawn_{false};
};

/// The text of one line of a bar that is `width` columns wide.
[[nodiscard]] std::string bar_text(std::string_view work, std::size_t done, std::size_t total, std::size_t width);

/// Writes to standard output. What cannot be written is found by `finish_output`.
void print(std::string_view text);

/// Flushes standard output, for a reader at the other end of a pipe. Returns false if not everything could be written.
[[nodiscard]] bool flush_output();

/// Flushes standard output. Prints an error and returns false if not everything could be written.
[[nodiscard]] bool finish_output();

}  // namespace sessionlock::cli
