#include "protocol/temporary_name.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>

#include <fmt/core.h>

#include "protocol/inode_guard.hpp"
#include "protocol/lock_file.hpp"
#include "system/system.hpp"

namespace sessionlock {
namespace {

constexpr std::string_view k_suffix = ".tmp";
constexpr std::size_t k_digits = 32;
constexpr std::size_t k_tail = 1 + k_digits + k_suffix.size();  // ".<digits>.tmp"
/// The shortest limit for a name's length on any Linux file system that has files: eCryptfs.
constexpr std::size_t k_any_name_max = 143;
/// NAME_MAX. A file system that counts characters, and takes longer names, takes one of so many bytes as well.
constexpr std::size_t k_name_max = 255;
/// Far longer than any publication takes.
constexpr std::chrono::minutes k_age_left_behind{10};

/// The part of a name that its temporary name has: all of it or, so that the temporary name is allowed wherever the
/// name is, as much of its end as there is room for. No character of UTF-8 is cut.
std::string_view part_of(std::string_view name) {
  constexpr std::size_t k_continuation_max = 3;
  const std::size_t room = std::clamp(name.size(), k_any_name_max, k_name_max) - 1 - k_tail;
  if (name.size() > room) {
    name.remove_prefix(name.size() - room);
    for (std::size_t i = 0; i < k_continuation_max && (static_cast<unsigned char>(name.front()) & 0xc0U) == 0x80; ++i) {
      name.remove_prefix(1);
    }
  }
  return name;
}

/// What stands for the file's own name in its temporary name; empty for any other name.
std::string_view part_in(std::string_view name) {
  if (name.size() <= 1 + k_tail || name.front() != '.' || !name.ends_with(k_suffix)) {
    return {};
  }
  const std::string_view digits = name.substr(name.size() - k_tail, 1 + k_digits);
  const bool is_one =
      digits.front() == '.' && digits.substr(1).find_first_not_of("0123456789abcdef") == std::string_view::npos;
  return is_one ? name.substr(1, name.size() - 1 - k_tail) : std::string_view{};
}

}  // namespace

std::string temporary_name(std::string_view name, std::string_view id) {
  return fmt::format(".{}.{}{}", part_of(name), id, k_suffix);
}

std::string other_id(std::string_view id) {
  std::string other(id);
  if (!other.empty()) {
    other.front() = other.front() == '0' ? '1' : '0';
  }
  return other;
}

bool is_temporary_name(std::string_view name) {
  return !part_in(name).empty();
}

bool is_temporary_name_for(std::string_view name, std::string_view finished) {
  return is_temporary_name(name) && part_in(name) == part_of(finished);
}

bool is_temporary_name_with_suffix(std::string_view name, std::string_view suffix) {
  return is_temporary_name(name) && part_in(name).ends_with(part_of(suffix));
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
  const InodeGuard guard = InodeGuard::enter(unfinished.view(), file.fd.get(), file.file);
  if (!guard.is_entered()) {
    const bool has_failed = guard.step().answer == Step::Answer::failed;
    return has_failed ? tl::unexpected(to_error(guard.step(), unfinished.path())) : Result<void>{};
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
