#pragma once

/// \file
/// A second copy of the library in this process, as a plugin may bring one: `second_copy.so`, which lies beside the
/// test program.

#include <array>
#include <chrono>
#include <filesystem>
#include <string>
#include <type_traits>
#include <utility>

#include <sessionlock/error.hpp>
#include <sessionlock/options.hpp>

namespace sessionlock::test {

/// An answer of the other copy. Neither copy frees or destroys what the other has made.
struct CopyAnswer {
  /// An `Errc`; 0: success; -1: an error of the system.
  int code{0};
  std::array<char, 512> words{};
};

/// What the module exports, by the name `k_copy_entry`.
struct CopyFunctions {
  void* (*acquire)(const char* session, int timeout_ms, int grace_ms, CopyAnswer* answer);
  /// Appends one record under the lock; `around` is called inside the guarded write, before and after.
  void (*append)(void* lock, const char* record, void (*around)(void* context, bool before), void* context,
                 CopyAnswer* answer);
  /// The `lockId`; lifetime: that of the lock.
  const char* (*lock_id)(void* lock);
  /// Ends the handle's life, too.
  void (*release)(void* lock, CopyAnswer* answer);
};
inline constexpr const char* k_copy_entry = "second_copy_functions";

/// The copy, loaded for the life of the process.
class SecondCopy {
 public:
  /// A handle of the other copy. Releases at the end of its life.
  class Lock {
   public:
    Lock(const CopyFunctions& functions, void* lock) : functions_(&functions), lock_(lock) {}
    Lock(Lock&& other) noexcept : functions_(other.functions_), lock_(std::exchange(other.lock_, nullptr)) {}
    Lock& operator=(Lock&&) = delete;
    ~Lock() { (void)release(); }

    [[nodiscard]] std::string lock_id() const { return functions_->lock_id(lock_); }
    [[nodiscard]] Result<void> release();
    /// Appends a record; `around` is called inside the guarded write, with true before and false after.
    template <class F>
    [[nodiscard]] Result<void> append(const std::string& record, F&& around);

   private:
    const CopyFunctions* functions_;
    void* lock_;
  };

  /// Throws `ProcessFailure` if it cannot be loaded.
  [[nodiscard]] static const SecondCopy& load();
  /// Of `options` the time limit and the grace count.
  [[nodiscard]] Result<Lock> acquire(const std::filesystem::path& session, const AcquireOptions& options) const;

 private:
  explicit SecondCopy(const CopyFunctions& functions) : functions_(functions) {}
  /// The answer's words are the detail.
  static Result<void> result_of(const CopyAnswer& answer);
  const CopyFunctions& functions_;
};

template <class F>
Result<void> SecondCopy::Lock::append(const std::string& record, F&& around) {
  CopyAnswer answer;
  functions_->append(
      lock_, record.c_str(),
      [](void* context, bool before) { (*static_cast<std::remove_reference_t<F>*>(context))(before); }, &around,
      &answer);
  return result_of(answer);
}

}  // namespace sessionlock::test
