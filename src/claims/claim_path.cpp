#include "claims/claim_path.hpp"

#include "system/deadline.hpp"
#include "verdict/failure.hpp"

namespace sessionlock {
namespace {

/// Somebody else is done in a moment; only a stopped process takes longer.
constexpr std::chrono::seconds k_patience{5};

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

Result<void> repeat(const std::string& operation, const std::filesystem::path& path,
                    const std::function<Result<Attempt>()>& attempt) {
  Result<Attempt> last;
  retry_until(std::chrono::steady_clock::now() + k_patience, [&] {
    last = attempt();
    return !last || *last == Attempt::done;
  });
  if (!last) {
    return tl::unexpected(std::move(last).error());
  }
  if (*last != Attempt::done) {
    return failure(Errc::timed_out, operation, path, "somebody else has the file locked");
  }
  return {};
}

}  // namespace sessionlock
