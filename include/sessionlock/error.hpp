#pragma once

/// \file
/// How failures are told: a code, the operation that failed, the path it was about, and for contention the holder.

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>

#include <tl/expected.hpp>

#include <sessionlock/export.hpp>
#include <sessionlock/staleness.hpp>

namespace sessionlock {

/// Failures of this library's own making. Failures of the system (EACCES, ENOSPC, EROFS, EMFILE, …) keep their own
/// identity in `std::system_category()` and are never dressed up as contention.
enum class Errc {
  locked = 1,       ///< Somebody holds it, and the caller did not want to wait.
  timed_out,        ///< The wait for it, or for a guarded write, ran out.
  cancelled,        ///< The stop token asked to give up.
  lost,             ///< This hold is over: the lock file is gone or somebody else's, or a fork lies between.
  not_a_lock_file,  ///< At the lock path is a symlink, directory, FIFO, device or over-long file.
  aliased_session,  ///< The session has several names (hard links, a bind mount), which would mean several locks.
  unsupported_file_system,  ///< The file system cannot arbitrate: no exclusive complete creation, or no `flock`.
  invalid_argument,         ///< The call cannot be meant.
  invalid_record,           ///< A transcript record is not one JSON value on one line.
  torn_transcript,          ///< The transcript ends in an incomplete line that may not be repaired here.
  replaced_session          ///< The session path no longer names the file that is open.
};

/// The category of `Errc`. Thread safety: safe. Lifetime: the program.
[[nodiscard]] SESSIONLOCK_API const std::error_category& error_category() noexcept;
/// Lets `Errc` values be compared with and assigned to `std::error_code`.
[[nodiscard]] SESSIONLOCK_API std::error_code make_error_code(Errc code) noexcept;

/// A failure, told so that a person can act on it.
struct SESSIONLOCK_API Error {
  std::error_code code{};
  /// What was being done: a system call's name ("linkat", "flock") or the library's own step ("acquire").
  std::string operation{};
  std::filesystem::path path{};
  /// For contention and time-outs, who holds the lock.
  std::optional<Inspection> holder{};
  /// More words where code, operation and path do not say enough: an option to use, a pid to look at, a limit.
  std::string detail{};

  /// One line, for people; control characters in paths and labels are escaped. For contention, with the detail in the
  /// parentheses: `session file locked (timeout 500ms): pid=41237 alive age=12s label="nightly" /path/x.jsonl.lock`.
  /// Otherwise operation, what went wrong, path and detail: `linkat: No space left on device: /path/x.jsonl.lock`.
  [[nodiscard]] std::string message() const;
};

/// The answer of a function that can fail: a `T`, or an `Error`.
template <class T>
using Result = tl::expected<T, Error>;

/// An `Error` as an exception, for those who prefer one. Copies share the error, so that copying never throws.
class SESSIONLOCK_API LockError : public std::system_error {
 public:
  explicit LockError(Error error);
  ~LockError() override;
  LockError(const LockError&) = default;
  LockError& operator=(const LockError&) = default;

  /// Lifetime: that of the exception object.
  [[nodiscard]] const Error& error() const noexcept { return told_->error; }
  /// The same as `error().message()`. Lifetime: that of the exception object.
  [[nodiscard]] const char* what() const noexcept override;

 private:
  struct Told {
    Error error;
    std::string message;
  };
  std::shared_ptr<const Told> told_;
};

/// Takes the value out of a result, or throws its error as `LockError`.
template <class T>
T value_or_throw(Result<T>&& result) {
  if (!result) {
    throw LockError(std::move(result).error());
  }
  if constexpr (!std::is_void_v<T>) {
    return std::move(*result);
  }
}

}  // namespace sessionlock

template <>
struct std::is_error_code_enum<sessionlock::Errc> : std::true_type {};
