#include "protocol/temporary_name.hpp"

#include <fmt/core.h>

#include "system/system.hpp"

namespace sessionlock {
namespace {

constexpr std::string_view k_suffix = ".tmp";

}  // namespace

std::string temporary_name(std::string_view name, std::string_view id) {
  return fmt::format(".{}.{}{}", name, id, k_suffix);
}

std::string_view lock_name_of_temporary(std::string_view name) {
  constexpr std::size_t k_digits = 32;
  constexpr std::size_t k_tail = 1 + k_digits + k_suffix.size();  // ".<digits>.tmp"
  if (name.size() <= 1 + k_tail || name.front() != '.' || !name.ends_with(k_suffix)) {
    return {};
  }
  const std::string_view digits = name.substr(name.size() - k_tail, 1 + k_digits);
  const bool is_one =
      digits.front() == '.' && digits.substr(1).find_first_not_of("0123456789abcdef") == std::string_view::npos;
  return is_one ? name.substr(1, name.size() - 1 - k_tail) : std::string_view{};
}

TemporaryName::~TemporaryName() {
  if (!is_renamed_) {
    (void)sys::unlinkat(place_.directory->fd.get(), place_.name.c_str());
  }
}

}  // namespace sessionlock
