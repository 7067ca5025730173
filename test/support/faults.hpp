#pragma once

/// \file
/// Makes every system call of an operation fail in every way it can, one case at a time, and looks at what is left.
///
/// For each case the situation is made anew, the operation runs with one fault, and then, without faults: the answer is
/// success or an error that names itself, its operation and its path; the situation's own judge, who also does the
/// operation again, is content; no descriptor is open that was not before; and no lock or unfinished file is left.

#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <sessionlock/error.hpp>

#include "protocol/file_system_traits.hpp"
#include "system/system.hpp"

namespace sessionlock::test {

/// Besides an errno: the call moves half of its bytes, or none.
inline constexpr int k_half = -1;
inline constexpr int k_nothing = -2;

/// The ways in which a call can fail: by its manual page, and by what its file systems add to that.
[[nodiscard]] const std::vector<int>& ways_to_fail(sys::Call call);

struct Fault {
  std::size_t number{};
  sys::Call call{};
  int error{};
  /// So do all later calls of the kind.
  bool lasting{false};
};

/// One operation in a situation of its own.
struct Trial {
  /// The operation; each of its calls is at risk.
  std::function<Result<void>()> act{};
  /// What is wrong afterwards; nothing if all is well.
  std::function<std::string(const Result<void>&)> judge{};
  /// What somebody else does meanwhile; sees every call of the operation.
  std::function<void(const sys::CallInfo&)> meanwhile{};
};
/// Makes the situation in an empty directory.
using Situation = std::function<Trial(const std::filesystem::path& directory)>;

struct FaultPlan {
  std::string_view operation{};
  Situation situation{};
  /// Errors of the operation's own that a fault may lead to; a system error must be the one that was injected.
  std::vector<Errc> own_errors{};
  /// The operation is about a process, not a path.
  bool has_path{true};
  /// What may be left that looks like a lock.
  std::vector<std::string> may_stay{};
  /// Also with calls that go on failing.
  bool with_lasting{true};
};

/// Tries every fault, once and lasting; prints how many there were. Complaints are doctest failures.
void inject_faults(const FaultPlan& plan);

/// A new directory, removed with all its contents; in memory where this process may mount.
class Workplace {
 public:
  Workplace();
  ~Workplace();
  Workplace(const Workplace&) = delete;
  Workplace& operator=(const Workplace&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_{};
};

/// What is known of a file system: that of a directory, changed for a scope. Others of its kind are not touched.
class KnownTraits {
 public:
  explicit KnownTraits(const std::filesystem::path& directory);
  ~KnownTraits();
  KnownTraits(const KnownTraits&) = delete;
  KnownTraits& operator=(const KnownTraits&) = delete;
  /// As if nothing had been tried there.
  void forget() const;
  /// As if everything had been tried there, and worked.
  void settle() const;
  [[nodiscard]] FileSystemTraits& get() const { return *traits_; }

 private:
  std::shared_ptr<FileSystemTraits> traits_;
  bool local_;
};

/// How many descriptors this process has.
[[nodiscard]] std::size_t count_descriptors();

}  // namespace sessionlock::test
