#pragma once

/// \file
/// Markers with an expiry: "a stop is under way, do not start".

#include <chrono>
#include <filesystem>

#include <sessionlock/error.hpp>
#include <sessionlock/export.hpp>

namespace sessionlock {

/// The longest time a sentinel can be set for. A file that claims more is corrupt: it was written before the clock was
/// set back, or by something else, and would otherwise stand for ever.
inline constexpr std::chrono::hours k_sentinel_ttl_max{24 * 365};

/// A file that holds its absolute expiry, decimal milliseconds since 1970. Active only while it parses and its expiry
/// lies ahead, and for no more than twice the time it was set for, should the clock be set back. What is expired, empty
/// or corrupt is absent.
///
/// A file with anything but digits and blanks in it, or with more than 32 bytes, is no sentinel: it is absent, and no
/// call removes or replaces it. Thread safety: safe; every call looks at the file anew.
class SESSIONLOCK_API Sentinel {
 public:
  explicit Sentinel(std::filesystem::path path);

  /// Sets it, atomically, to expire in `ttl`; replaces one that is there. Zero or less: as `clear`.
  /// Errors: `Errc::invalid_argument` beyond `k_sentinel_ttl_max`; `Errc::not_a_lock_file` if there is something else
  /// at the path; those of writing.
  [[nodiscard]] Result<void> set(std::chrono::milliseconds ttl) const;
  /// Whether it stands now. Removes one that does not, if it is expired by its file system's clock as well, or empty or
  /// corrupt.
  /// Errors: it cannot be read, or is no regular file; `Errc::timed_out` if it is replaced at every look.
  [[nodiscard]] Result<bool> active() const;
  /// Removes it; no error if it is not there. Errors: `Errc::not_a_lock_file` if there is something else at the path;
  /// those of the calls.
  [[nodiscard]] Result<void> clear() const;
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace sessionlock
