#include "cli/terminal.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <system_error>

#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/exit_status.hpp"

namespace sessionlock::cli {
namespace {

/// Work that ends sooner gets no bar: it would only flicker.
constexpr std::chrono::milliseconds k_moment{500};
constexpr std::chrono::milliseconds k_redraw_interval{100};
constexpr std::size_t k_default_columns = 80;

bool is_smart_terminal(int fd) {
  const char* const term = std::getenv("TERM");
  return ::isatty(fd) == 1 && term != nullptr && std::string_view{term} != "dumb";
}

std::size_t columns_of(int fd) {
  struct winsize size {};
  return ::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : k_default_columns;
}

std::string_view escape_for(Colour colour) {
  switch (colour) {
    case Colour::bold:
      return "\x1b[1m";
    case Colour::dim:
      return "\x1b[2m";
    case Colour::green:
      return "\x1b[32m";
    case Colour::yellow:
      return "\x1b[33m";
    case Colour::red:
      return "\x1b[31m";
    case Colour::cyan:
      return "\x1b[36m";
    case Colour::plain:
      break;
  }
  return {};
}

}  // namespace

Palette Palette::for_output() {
  const char* const no_color = std::getenv("NO_COLOR");
  return Palette{is_smart_terminal(STDOUT_FILENO) && (no_color == nullptr || *no_color == '\0')};
}

std::string Palette::paint(Colour colour, std::string_view text) const {
  if (!coloured_ || colour == Colour::plain) {
    return std::string{text};
  }
  return fmt::format("{}{}\x1b[0m", escape_for(colour), text);
}

ProgressBar::ProgressBar(std::string_view work)
    : work_(work), wanted_(is_smart_terminal(STDERR_FILENO)), next_(std::chrono::steady_clock::now() + k_moment) {}

ProgressBar::~ProgressBar() {
  if (drawn_) {
    std::fputs("\r\x1b[K", stderr);
  }
}

void ProgressBar::show(std::size_t done, std::size_t total) {
  const auto now = std::chrono::steady_clock::now();
  if (!wanted_ || now < next_) {
    return;
  }
  next_ = now + k_redraw_interval;
  drawn_ = true;
  // One column is left free: a full last one would make some terminals scroll.
  const std::string line = "\r" + bar_text(work_, done, total, columns_of(STDERR_FILENO) - 1) + "\x1b[K";
  std::fputs(line.c_str(), stderr);
}

std::string bar_text(std::string_view work, std::size_t done, std::size_t total, std::size_t width) {
  const std::string counts = fmt::format(" {}/{}", done, total);
  const std::size_t taken = work.size() + counts.size() + 3;
  if (width < taken + 5) {
    return fmt::format("{}{}", work, counts).substr(0, width);
  }
  const std::size_t room = std::min<std::size_t>(width - taken, 40);
  const std::size_t filled = total == 0 ? room : std::min(room, room * done / total);
  return fmt::format("{} [{}{}]{}", work, std::string(filled, '#'), std::string(room - filled, ' '), counts);
}

void print(std::string_view text) {
  // The error indicator of the stream keeps a failure until `finish_output` asks.
  static_cast<void>(std::fwrite(text.data(), 1, text.size(), stdout));
}

bool flush_output() {
  return std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
}

bool finish_output() {
  const bool flushed = std::fflush(stdout) == 0;
  const std::error_code code{errno, std::system_category()};
  if (flushed && std::ferror(stdout) == 0) {
    return true;
  }
  print_error(fmt::format("cannot write to standard output{}", flushed ? "" : ": " + code.message()));
  return false;
}

}  // namespace sessionlock::cli
