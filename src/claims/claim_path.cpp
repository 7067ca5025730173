#include "claims/claim_path.hpp"

#include <optional>
#include <string_view>
#include <vector>

#include "protocol/reclaim.hpp"
#include "protocol/temporary_name.hpp"
#include "system/deadline.hpp"
#include "system/file_status.hpp"
#include "verdict/failure.hpp"

namespace sessionlock {
namespace {

/// Another process is done with the file in a moment; only a stopped one takes longer.
constexpr std::chrono::seconds k_retry_timeout{5};

void remove_if(const Place& place, WallTime now, const IsLeftBehind& is_left_behind) {
  auto found = pin_file(place);
  if (!found || !found->has_value()) {
    return;
  }
  PinnedFile& file = **found;
  if (is_left_behind(file, place, now)) {
    (void)reclaim(place, file, [&]() -> Result<bool> { return is_left_behind(file, place, now); });
  }
}

}  // namespace

Result<Place> place_of(const std::filesystem::path& path) {
  const std::string name = path.filename().native();
  if (name.empty() || name == "." || name == ".." || path.native().find('\0') != std::string::npos) {
    return failure(Errc::invalid_argument, "open", path, "the path does not name a file");
  }
  auto directory = open_directory(path.has_parent_path() ? path.parent_path() : std::filesystem::path("."));
  if (!directory) {
    return tl::unexpected(std::move(directory).error());
  }
  return Place{std::move(*directory), name};
}

void remove_files_left_behind(const std::filesystem::path& path, const IsLeftBehind& is_left_behind) {
  const auto place = place_of(path);
  if (!place) {
    return;
  }
  std::vector<std::string> names;
  (void)for_each_name(*place->directory, [&](std::string_view name) {
    if (is_temporary_name_for(name, place->name)) {
      names.emplace_back(name);
    }
  });
  const auto now = names.empty() ? std::nullopt : file_system_clock(place->directory->fd.get());
  for (auto& name : names) {
    if (now) {
      remove_if({place->directory, std::move(name)}, *now, is_left_behind);
    }
  }
}

Result<void> retry_while_busy(const std::string& operation, const std::filesystem::path& path,
                              const std::function<Result<Retry>()>& attempt) {
  Result<Retry> last;
  retry_until(std::chrono::steady_clock::now() + k_retry_timeout, [&] {
    last = attempt();
    return !last || *last == Retry::done;
  });
  if (!last) {
    return tl::unexpected(std::move(last).error());
  }
  if (*last != Retry::done) {
    return failure(Errc::timed_out, operation, path, "somebody else has the file locked");
  }
  return {};
}

}  // namespace sessionlock
