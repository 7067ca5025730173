#include "sessions/appended_file.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>

#include "system/deadline.hpp"
#include "verdict/failure.hpp"

namespace sessionlock {
namespace {

/// How long an open waits for a lease to be given up. The kernel breaks it after 45 s by default
/// (proc_sys_fs(5), lease-break-time); a holder that reacts needs a moment.
constexpr std::chrono::seconds k_lease_patience{5};
/// How much of a file is in memory at a time.
constexpr std::size_t k_chunk_bytes = std::size_t{64} * 1024;

}  // namespace

Result<AppendedFile> AppendedFile::open(const Directory& directory, const std::string& name, mode_t mode,
                                        struct stat& status, Missing missing) {
  AppendedFile file{{}, {}, directory.path_of(name)};
  // O_NONBLOCK: what turns out to be a FIFO or a device must not hang us. O_CREAT only where there is nothing: in a
  // sticky directory it is refused for another user's file that may be written (proc_sys_fs(5), protected_regular).
  constexpr int flags = O_RDWR | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
  sys::Opened opened;
  // EAGAIN: another process has a lease on the file (fcntl(2), F_SETLEASE) and has just been asked to give it up.
  retry_until(std::chrono::steady_clock::now() + k_lease_patience, [&] {
    opened = sys::open(directory.fd.get(), name.c_str(), flags);
    if (opened.error == ENOENT && missing == Missing::create) {
      opened = sys::open(directory.fd.get(), name.c_str(), flags | O_CREAT | O_EXCL, mode);
      file.is_new = opened.ok();
    }
    return opened.error != EAGAIN && opened.error != EEXIST;  // EEXIST: another program has just made it
  });
  if (!opened.ok()) {
    return failure(opened.code(), "openat", file.path);
  }
  file.fd = std::move(opened.fd);
  if (const auto found = sys::fstat(file.fd.get(), status); !found.ok()) {
    return failure(found.code(), "fstat", file.path);
  }
  if (!S_ISREG(status.st_mode)) {
    return failure(Errc::invalid_argument, "open", file.path, "it is no regular file");
  }
  file.identity = identity_of(status);
  file.fd.expect(file.identity);
  return file;
}

Result<void> AppendedFile::read(std::uint64_t offset, char* buffer, std::size_t size) const {
  for (std::size_t done = 0; done < size;) {
    const auto got = sys::pread(fd.get(), buffer + done, size - done, offset + done);
    if (!got.ok()) {
      return failure(got.code(), "pread", path);
    }
    if (got.value == 0) {
      return failure(std::make_error_code(std::errc::io_error), "pread", path, "somebody cut it meanwhile");
    }
    done += static_cast<std::size_t>(got.value);
  }
  return {};
}

Result<bool> AppendedFile::ends_inside_line(std::uint64_t size) const {
  char last = '\n';
  if (size > 0) {
    if (auto got = read(size - 1, &last, 1); !got) {
      return tl::unexpected(std::move(got).error());
    }
  }
  return last != '\n';
}

// A failure other than ENXIO says nothing about the file (EINVAL: no holes there), and then all of it is read.
std::uint64_t AppendedFile::next_data(std::uint64_t start, std::uint64_t end) const {
  const auto found = sys::seek_data(fd.get(), start);
  if (!found.ok()) {
    return found.error == ENXIO ? end : std::min(start, end);
  }
  return std::clamp(static_cast<std::uint64_t>(found.value), std::min(start, end), end);
}

// The kernel looks for data forwards only. So the last byte is found by halves: in a file without holes at the first
// question, in one with a hole of a terabyte at the end after forty.
std::uint64_t AppendedFile::data_end_before(std::uint64_t end) const {
  std::uint64_t low = 0;
  for (std::uint64_t high = end; low < high;) {
    const std::uint64_t at = high == end ? high - 1 : low + (high - low) / 2;
    if (next_data(at, end) < end) {
      low = at + 1;
    } else {
      high = at;
    }
  }
  return low;
}

Result<bool> AppendedFile::equals(std::uint64_t start, std::uint64_t end, const AppendedFile& other,
                                  std::uint64_t other_start) const {
  std::string own;
  std::string others;
  const std::uint64_t other_end = other_start + (end - start);
  while (true) {
    const std::uint64_t hole =
        std::min(next_data(start, end) - start, other.next_data(other_start, other_end) - other_start);
    start += hole;
    other_start += hole;
    if (start >= end) {
      return true;
    }
    own.resize(static_cast<std::size_t>(std::min<std::uint64_t>(end - start, k_chunk_bytes)));
    others.resize(own.size());
    if (auto got = read(start, own.data(), own.size()); !got) {
      return tl::unexpected(std::move(got).error());
    }
    if (auto got = other.read(other_start, others.data(), others.size()); !got) {
      return tl::unexpected(std::move(got).error());
    }
    if (own != others) {
      return false;
    }
    start += own.size();
    other_start += own.size();
  }
}

Result<void> AppendedFile::append(std::string_view bytes, std::uint64_t size) const {
  auto written = sys::write(fd.get(), bytes.data(), bytes.size());
  std::size_t done = written.ok() ? static_cast<std::size_t>(written.value) : 0;
  // A write that ends short does not say why. Going on tells: the disk is full, or a limit is reached, whose signal
  // must not end us while half a line stands there, or a signal or the longest possible write cut it in two.
  while (written.ok() && written.value > 0 && done < bytes.size()) {
    written = sys::write_without_signal(fd.get(), bytes.data() + done, bytes.size() - done);
    done += written.ok() ? static_cast<std::size_t>(written.value) : 0;
  }
  if (done == bytes.size()) {
    return {};
  }
  const auto code = written.ok() ? std::make_error_code(std::errc::io_error) : written.code();
  return failure(code, "write", path, cut_back(size, done));
}

Result<void> AppendedFile::truncate(std::uint64_t size) const {
  if (const auto cut = sys::ftruncate(fd.get(), size); !cut.ok()) {
    return failure(cut.code(), "ftruncate", path);
  }
  return {};
}

Result<void> AppendedFile::sync() const {
  if (const auto synced = sys::fsync(fd.get()); !synced.ok()) {
    return failure(synced.code(), "fsync", path);
  }
  return {};
}

std::string AppendedFile::cut_back(std::uint64_t size, std::uint64_t done) const {
  if (done == 0) {
    return {};
  }
  struct stat status {};
  const auto found = sys::fstat(fd.get(), status);
  if (!found.ok() || size_of(status) != size + done) {
    return fmt::format("{} bytes of it stay: others have written behind them", done);
  }
  if (const auto cut = sys::ftruncate(fd.get(), size); !cut.ok()) {
    return fmt::format("{} bytes of it stay: ftruncate: {}", done, cut.code().message());
  }
  return {};
}

// Where that cannot be asked for (EINVAL: no such thing on that file system; EACCES: a directory that may be written
// and not read), the fsync of the file has to do; on local file systems it takes the name of a new file along.
Result<void> sync_directory(const Directory& directory) {
  const auto opened = sys::open(directory.fd.get(), ".", O_RDONLY | O_DIRECTORY);
  if (!opened.ok()) {
    return opened.error == EACCES ? Result<void>{} : failure(opened.code(), "openat", directory.path);
  }
  const auto synced = sys::fsync(opened.fd.get());
  if (!synced.ok() && synced.error != EINVAL) {
    return failure(synced.code(), "fsync", directory.path);
  }
  return {};
}

}  // namespace sessionlock
