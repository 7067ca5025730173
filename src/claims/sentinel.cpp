#include <sessionlock/sentinel.hpp>

#include <cerrno>
#include <charconv>
#include <cstdint>
#include <utility>

#include <fmt/core.h>
#include <sys/stat.h>

#include "claims/claim_path.hpp"
#include "claims/sentinel.hpp"
#include "protocol/directory.hpp"
#include "protocol/lock_file.hpp"
#include "protocol/publication.hpp"
#include "protocol/take_over.hpp"
#include "protocol/temporary_name.hpp"
#include "system/random_id.hpp"
#include "verdict/failure.hpp"

namespace sessionlock {
namespace {

using std::chrono::milliseconds;

constexpr mode_t k_mode = 0644;
/// Looks at a sentinel that is replaced between look and act each time.
constexpr int k_looks_max = 100;

/// A sentinel's file with this text. Lifetime: refers to both.
Publication sentinel_publication(const std::string& id, const std::string& text) {
  return {k_mode, id, false, [&text](const FileIdentity*) { return text; }};
}

/// What cannot be a sentinel is somebody's, at any age: a slip must not cost it.
Result<void> check_kind(const PinnedFile& file, const std::string& operation, const std::filesystem::path& path) {
  if (!file.content) {
    return failure(file.content.error(), operation, path);
  }
  if (file.content->too_long || !is_sentinel_text(file.content->text)) {
    return failure(Errc::not_a_lock_file, operation, path,
                   "there is something else than a sentinel in it; name another file, or move this one away");
  }
  return {};
}

/// What a killed `set` left, or one that was stopped for very long; nothing that cannot be a sentinel.
bool is_left_behind(const PinnedFile& file, const Place& place, WallTime now) {
  return check_kind(file, "clear sentinel", place.path()).has_value() && is_abandoned(file, now);
}

/// Puts a new file in the place of the one that is there, under that one's `flock`: a process that is about to remove
/// the old file because it has expired needs the same `flock`, and compares, so it cannot remove the new one.
///
///   1. A reads an expired file.  2. B replaces it here.  3. A locks the old inode, sees that the path names another.
Result<Retry> replace(const Place& place, PinnedFile& old, const Publication& publication) {
  const auto may_go = [&]() -> Result<bool> {
    auto checked = check_kind(old, "set sentinel", place.path());
    return checked ? Result<bool>(true) : tl::unexpected(std::move(checked).error());
  };
  if (auto checked = may_go(); !checked) {
    return tl::unexpected(std::move(checked).error());
  }
  const auto ended = take_over(place, old, may_go, publication);
  if (!ended) {
    return tl::unexpected(ended.error());
  }
  return ended->outcome == Reclaim::done ? Retry::done : Retry::again;
}

Result<Retry> set_once(const std::filesystem::path& path, const std::string& text) {
  auto place = place_of(path);
  if (!place) {
    return tl::unexpected(std::move(place).error());
  }
  const auto id = random_lock_id();
  if (!id) {
    return tl::unexpected(random_failure(id.error(), path));
  }
  const Publication publication = sentinel_publication(*id, text);
  auto published = publish_file(*place, publication);
  if (!published) {
    return tl::unexpected(std::move(published).error());
  }
  if (published->outcome != PublishOutcome::contended) {
    return published->outcome == PublishOutcome::published ? Retry::done : Retry::again;
  }
  auto old = pin_file(*place);
  if (!old) {
    return tl::unexpected(std::move(old).error());
  }
  return old->has_value() ? replace(*place, **old, publication) : Retry::again;
}

/// What is there, with the place it was found at; none if there is nothing.
struct Found {
  Place place;
  PinnedFile file;
};
Result<std::optional<Found>> find(const std::filesystem::path& path) {
  auto place = place_of(path);
  if (!place) {
    if (place.error().code == std::errc::no_such_file_or_directory) {
      return std::nullopt;
    }
    return tl::unexpected(std::move(place).error());
  }
  auto pinned = pin_file(*place);
  if (!pinned) {
    return tl::unexpected(std::move(pinned).error());
  }
  if (!pinned->has_value()) {
    return std::nullopt;
  }
  return Found{std::move(*place), std::move(**pinned)};
}

bool is_active(const PinnedFile& file) {
  return file.content && !file.content->too_long &&
         sentinel_is_active(file.content->text, file.modified, sys::wall_clock());
}

bool has_ended(const PinnedFile& file, const Place& place) {
  return file.content && !file.content->too_long &&
         sentinel_has_ended(file.content->text, file.modified, sys::wall_clock(),
                            file_system_clock(place.directory->fd.get()));
}

/// Whether a sentinel stands; removes one that has ended. None: it was replaced meanwhile, look again.
Result<std::optional<bool>> look_once(const std::filesystem::path& path) {
  auto found = find(path);
  if (!found) {
    return tl::unexpected(std::move(found).error());
  }
  if (!found->has_value()) {
    return false;
  }
  const Place& place = (*found)->place;
  PinnedFile& file = (*found)->file;
  if (!file.content) {
    return failure(file.content.error(), "read sentinel", path);
  }
  if (is_active(file)) {
    return true;
  }
  if (!has_ended(file, place)) {
    return false;
  }
  const auto ended = reclaim(place, file, [&]() -> Result<bool> { return has_ended(file, place); });
  // It is absent also where it cannot be removed: a read-only directory must not keep a daemon from starting.
  return ended && *ended == Reclaim::replaced ? std::nullopt : std::optional(false);
}

Result<Retry> clear_once(const std::filesystem::path& path) {
  auto found = find(path);
  if (!found) {
    return tl::unexpected(std::move(found).error());
  }
  if (!found->has_value()) {
    return Retry::done;
  }
  PinnedFile& file = (*found)->file;
  const auto may_go = [&]() -> Result<bool> {
    auto checked = check_kind(file, "clear sentinel", path);
    return checked ? Result<bool>(true) : tl::unexpected(std::move(checked).error());
  };
  if (auto checked = may_go(); !checked) {
    return tl::unexpected(std::move(checked).error());
  }
  const auto ended = reclaim((*found)->place, file, may_go);
  if (!ended) {
    return tl::unexpected(ended.error());
  }
  return *ended == Reclaim::done ? Retry::done : Retry::again;
}

}  // namespace

bool is_sentinel_text(std::string_view text) {
  constexpr std::size_t k_bytes_max = 32;
  constexpr std::string_view k_digits_and_blanks("0123456789 \t\r\n\0", 15);
  return text.size() <= k_bytes_max && text.find_first_not_of(k_digits_and_blanks) == std::string_view::npos;
}

std::optional<WallTime> parse_sentinel(std::string_view text) {
  if (!text.empty() && text.back() == '\n') {
    text.remove_suffix(1);
  }
  std::int64_t expiry{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), expiry);
  if (error != std::errc{} || end != text.data() + text.size() || text.front() == '-') {
    return std::nullopt;
  }
  return WallTime{milliseconds{expiry}};
}

bool sentinel_is_active(std::string_view text, WallTime modified, WallTime now) {
  const auto expiry = parse_sentinel(text);
  if (!expiry || *expiry <= now) {
    return false;
  }
  const auto left = time_between(*expiry, now);
  const auto meant_for = modified < *expiry ? time_between(*expiry, modified) : milliseconds{0};
  return left <= k_sentinel_ttl_max && left - meant_for <= meant_for;
}

bool sentinel_has_ended(std::string_view text, WallTime modified, WallTime now,
                        std::optional<WallTime> file_system_now) {
  return is_sentinel_text(text) && !sentinel_is_active(text, modified, now) && file_system_now &&
         !sentinel_is_active(text, modified, *file_system_now);
}

Sentinel::Sentinel(std::filesystem::path path) : path_(std::move(path)) {}

Result<void> Sentinel::set(milliseconds ttl) const {
  if (ttl <= milliseconds{0}) {
    return clear();
  }
  if (ttl > k_sentinel_ttl_max) {
    return failure(Errc::invalid_argument, "set sentinel", path_, "it would stand for more than a year");
  }
  auto done = retry_while_busy("set sentinel", path_, [&] {
    return set_once(path_, fmt::format("{}\n", (sys::wall_clock() + ttl).time_since_epoch().count()));
  });
  remove_files_left_behind(path_, is_left_behind);
  return done;
}

Result<bool> Sentinel::active() const {
  for (int look = 0; look < k_looks_max; ++look) {
    auto active = look_once(path_);
    if (!active || active->has_value()) {
      return active ? Result<bool>(**active) : tl::unexpected(std::move(active).error());
    }
  }
  return failure(Errc::timed_out, "read sentinel", path_, "it was replaced at every look");
}

Result<void> Sentinel::clear() const {
  auto done = retry_while_busy("clear sentinel", path_, [&] { return clear_once(path_); });
  remove_files_left_behind(path_, is_left_behind);
  return done;
}

}  // namespace sessionlock
