#include "system/file_status.hpp"

#include <algorithm>
#include <cstdint>

#include <fcntl.h>

#include "system/system.hpp"

namespace sessionlock {

FileIdentity identity_of(const struct stat& status) noexcept {
  return {static_cast<std::uint64_t>(status.st_dev), static_cast<std::uint64_t>(status.st_ino)};
}

std::uint64_t size_of(const struct stat& status) noexcept {
  return static_cast<std::uint64_t>(std::max<off_t>(status.st_size, 0));
}

// Never by way of nanoseconds since 1970, which end in the year 2262: a time beyond would wrap around to one long ago.
WallTime modification_time(const struct stat& status) {
  constexpr std::int64_t k_ms_per_second = 1000;
  constexpr std::int64_t k_ns_per_ms = 1'000'000;
  std::int64_t time_ms = 0;
  if (__builtin_mul_overflow(std::int64_t{status.st_mtim.tv_sec}, k_ms_per_second, &time_ms) ||
      __builtin_add_overflow(time_ms, std::int64_t{status.st_mtim.tv_nsec} / k_ns_per_ms, &time_ms)) {
    return status.st_mtim.tv_sec < 0 ? WallTime::min() : WallTime::max();
  }
  return WallTime{std::chrono::milliseconds{time_ms}};
}

std::optional<WallTime> file_system_clock(int directory) {
  const auto opened = sys::open(directory, ".", O_TMPFILE | O_RDWR, S_IRUSR | S_IWUSR);
  struct stat status {};
  if (!opened.ok() || !sys::fstat(opened.fd.get(), status).ok()) {
    return std::nullopt;
  }
  return modification_time(status);
}

}  // namespace sessionlock
