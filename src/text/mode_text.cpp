#include "text/mode_text.hpp"

#include <charconv>

#include <fmt/core.h>
#include <sys/stat.h>

namespace sessionlock {
namespace {

constexpr int k_octal = 8;
constexpr std::size_t k_digits_max = 7;
constexpr mode_t k_least = S_IRUSR | S_IWUSR;
constexpr mode_t k_most = k_least | S_IRGRP | S_IWGRP | S_IROTH | S_IWOTH;

}  // namespace

std::string format_mode(mode_t mode) {
  return fmt::format("{:04o}", mode);
}

std::optional<mode_t> parse_mode(std::string_view text) {
  mode_t mode = 0;
  const bool is_octal =
      !text.empty() && text.size() <= k_digits_max && text.find_first_not_of("01234567") == std::string_view::npos;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), mode, k_octal);
  return is_octal && parsed.ec == std::errc{} ? std::optional(mode) : std::nullopt;
}

std::string mode_fault(mode_t mode) {
  const bool is_usable = (mode & k_least) == k_least && (mode & ~k_most) == 0;
  return is_usable ? std::string{}
                   : fmt::format(
                         "mode {} cannot be used: the owner reads and writes, the group and others may at most "
                         "do the same (0600 to 0666)",
                         format_mode(mode));
}

}  // namespace sessionlock
