#include "protocol/temporary_name.hpp"

#include <cerrno>
#include <chrono>

#include <fmt/core.h>

#include "protocol/lock_file.hpp"
#include "system/system.hpp"

namespace sessionlock {
namespace {

constexpr std::string_view k_suffix = ".tmp";
constexpr std::chrono::minutes k_age_left_behind{10};

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

bool is_abandoned(const PinnedFile& unfinished, WallTime now) {
  return age_of(unfinished.modified, now) > k_age_left_behind &&
         query_witness(unfinished).query != WitnessQuery::write_locked;
}

Result<void> remove_if_left_behind(const Place& unfinished, WallTime now) {
  const auto pinned = pin_file(unfinished);
  if (!pinned) {
    return pinned.error().code == Errc::not_a_lock_file ? Result<void>{} : tl::unexpected(pinned.error());
  }
  if (!pinned->has_value()) {
    return {};
  }
  const PinnedFile& file = **pinned;
  if (!file.content) {
    return failure(file.content.error(), "read temporary file", unfinished);
  }
  const bool can_be_lock = !file.content->too_long && read_lock_text(file.content->text).form != LockForm::other;
  if (!can_be_lock || !is_abandoned(file, now)) {
    return {};
  }
  const auto unlinked = sys::unlinkat(unfinished.directory->fd.get(), unfinished.name.c_str());
  return unlinked.ok() || unlinked.error == ENOENT ? Result<void>{} : failure(unlinked.code(), "unlinkat", unfinished);
}

TemporaryName::~TemporaryName() {
  if (!is_renamed_) {
    (void)sys::unlinkat(place_.directory->fd.get(), place_.name.c_str());
  }
}

}  // namespace sessionlock
