#pragma once

/// \file
/// The system calls the library makes on files and locks, behind one seam. `errno` is read here, in the line after the
/// call, and nowhere else. A test can watch each call, make it fail, shorten it, or stop before it (`Interceptor`).
///
/// Every descriptor opened here is close-on-exec, numbered 3 or higher, and registered, so that a forked child can drop
/// what it inherited (`close_inherited_descriptors`).

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

namespace sessionlock::sys {

/// The calls, by name: for tests that single one out, and for error messages.
enum class Call {
  open, close, fstat, fstatat, fstatfs, linkat, unlinkat, renameat2, readlinkat, mkdirat, pread, read, write, pwrite,
  ftruncate, fsync, flock, ofd_setlk, ofd_getlk, fcntl, kill, getdents, poll, inotify_init, inotify_add_watch,
  inotify_rm_watch, pidfd_open, pidfd_send_signal, eventfd, posix_spawn, getrandom, count
};
/// The call's name as in its manual page. Lifetime: static storage.
[[nodiscard]] std::string_view to_string(Call call);

/// What a call is about to do. `length` may be lowered, to make a read or write end short.
struct CallInfo {
  Call call{};
  int fd{-1};
  const char* path{nullptr};
  std::size_t* length{nullptr};
};

/// Seam for tests. `before` returns an errno to fail with instead of making the call, or 0 to make it; it may also block,
/// or do anything else, before it returns.
class Interceptor {
 public:
  virtual ~Interceptor() = default;
  virtual int before(const CallInfo& info) = 0;
};
/// Installs an interceptor for the whole process; null removes it. The caller keeps it alive while it is installed.
void set_interceptor(Interceptor* interceptor) noexcept;

/// The value of a successful call, or the errno of a failed one.
struct [[nodiscard]] Outcome {
  std::int64_t value{-1};
  int error{};
  [[nodiscard]] bool ok() const noexcept { return error == 0; }
  [[nodiscard]] std::error_code code() const noexcept { return {error, std::system_category()}; }
};

/// An open descriptor that closes itself. Move-only.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int number) noexcept : number_(number) {}
  Fd(Fd&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      reset();
      number_ = std::exchange(other.number_, -1);
    }
    return *this;
  }
  ~Fd() { reset(); }
  [[nodiscard]] int get() const noexcept { return number_; }
  [[nodiscard]] explicit operator bool() const noexcept { return number_ >= 0; }
  void reset() noexcept;
  /// Gives the number up without closing it.
  int release() noexcept { return std::exchange(number_, -1); }

 private:
  int number_{-1};
};
