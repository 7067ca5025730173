#include "faults.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <iostream>
#include <map>
#include <optional>
#include <stdexcept>
#include <system_error>

#include <dirent.h>
#include <doctest/doctest.h>
#include <unistd.h>

#include "lock_tools.hpp"
#include "process.hpp"
#include "protocol/directory.hpp"
#include "sanitizers.hpp"
#include "script.hpp"

namespace sessionlock::test {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::size_t k_calls_max = 5000;
constexpr int k_complaints_max = 20;

// Sanitizers make everything ten times slower; what the lasting faults add there is little.
constexpr bool k_slow = SESSIONLOCK_ADDRESS_SANITIZER || SESSIONLOCK_THREAD_SANITIZER;

/// All cases of this program; told when it ends.
struct Total {
  std::size_t cases{0};
  Total() = default;
  ~Total() {
    if (cases > 0) {
      std::cout << "faults: " << cases << " cases in all\n" << std::flush;
    }
  }
  Total(const Total&) = delete;
  Total& operator=(const Total&) = delete;
};
Total g_total;

/// A signal interrupts a call once, not without end; and whoever finds a lock busy all the time just waits.
bool can_last(int error) {
  return error != EINTR && error != EWOULDBLOCK && error != k_half;
}

std::string describe(const Fault& fault) {
  std::string text = "call " + std::to_string(fault.number) + ", " + std::string(sys::to_string(fault.call));
  text += fault.error == k_half      ? ", moves half of its bytes"
          : fault.error == k_nothing ? ", moves nothing"
                                     : ": " + std::system_category().message(fault.error);
  return text + (fault.lasting ? ", and so do all later ones" : "");
}

/// Fails the n-th call in the k-th way it can.
class Saboteur {
 public:
  Saboteur(std::size_t number, std::size_t way, bool lasting) : number_(number), way_(way), lasting_(lasting) {}

  int operator()(const sys::CallInfo& info) {
    ++calls_;
    if (calls_ == number_) {
      const auto& ways = ways_to_fail(info.call);
      if (way_ < ways.size()) {
        fault_ = Fault{number_, info.call, ways[way_], lasting_};
        return is_counted() ? fail(info) : 0;
      }
    }
    return fault_ && lasting_ && is_counted() && info.call == fault_->call ? fail(info) : 0;
  }

  [[nodiscard]] bool was_reached() const { return calls_ >= number_; }
  /// None: the call cannot fail in so many ways.
  [[nodiscard]] const std::optional<Fault>& fault() const { return fault_; }
  /// It can be as it was asked for.
  [[nodiscard]] bool is_counted() const { return fault_ && (!lasting_ || can_last(fault_->error)); }

 private:
  int fail(const sys::CallInfo& info) const {
    if (fault_->error > 0) {
      return fault_->error;
    }
    if (info.length != nullptr) {
      *info.length = fault_->error == k_nothing ? 0 : (*info.length + 1) / 2;
    }
    return 0;
  }

  std::size_t number_;
  std::size_t way_;
  bool lasting_;
  std::size_t calls_{0};
  std::optional<Fault> fault_{};
};

std::string judge_error(const Error& error, const Fault& fault, const FaultPlan& plan) {
  if (!error.code || error.operation.empty() || (plan.has_path && error.path.empty()) || error.message().empty()) {
    return "the error is not clear: " + error.message();
  }
  const bool is_own = std::any_of(plan.own_errors.begin(), plan.own_errors.end(),
                                  [&](Errc own) { return error.code == make_error_code(own); });
  const bool is_injected = error.code == std::error_code(std::max(fault.error, 0), std::system_category());
  const bool took_nothing = fault.error == k_nothing && error.code == std::errc::io_error;
  return is_own || is_injected || took_nothing ? "" : "the error has another's name: " + error.message();
}

/// A temporary name that could not be removed is a sweep's to remove.
std::string judge_names(const fs::path& directory, const FaultPlan& plan, const Fault& fault) {
  for (const auto& name : names_in(directory)) {
    if (fault.call == sys::Call::unlinkat && name.ends_with(".tmp")) {
      continue;
    }
    const bool is_lock = name.ends_with(".lock") || name.ends_with(".tmp") || name.ends_with(".pid");
    if (is_lock && std::find(plan.may_stay.begin(), plan.may_stay.end(), name) == plan.may_stay.end()) {
      return "left behind: " + name;
    }
  }
  return {};
}

struct Outcome {
  bool reached{false};
  std::optional<Fault> fault{};
  bool counts{false};
  std::string complaint{};
};

/// One case; what is open and what is left is looked at when the situation is gone.
Outcome run_case(const FaultPlan& plan, std::size_t number, std::size_t way, bool lasting) {
  const std::size_t descriptors = count_descriptors();
  Outcome outcome;
  const Workplace directory;
  {
    const KnownTraits traits(directory.path());
    traits.settle();
    const Trial trial = plan.situation(directory.path());
    Saboteur saboteur(number, way, lasting);
    Result<void> result;
    {
      const Script script(outermost([&](const sys::CallInfo& info) {
        if (trial.meanwhile) {
          trial.meanwhile(info);
        }
        return saboteur(info);
      }));
      result = trial.act();
    }
    outcome.reached = saboteur.was_reached();
    outcome.fault = saboteur.fault();
    outcome.counts = saboteur.is_counted();
    if (!result && outcome.fault) {
      outcome.complaint = judge_error(result.error(), *outcome.fault, plan);
    }
    if (outcome.complaint.empty()) {
      outcome.complaint = trial.judge(result);
    }
    if (!outcome.complaint.empty() && !result) {
      outcome.complaint += " (the answer was: " + result.error().message() + ")";
    }
  }
  if (outcome.complaint.empty()) {
    outcome.complaint = judge_names(directory.path(), plan, outcome.fault.value_or(Fault{}));
  }
  if (const auto now = count_descriptors(); outcome.complaint.empty() && now != descriptors) {
    outcome.complaint =
        std::to_string(descriptors) + " descriptors were open before, " + std::to_string(now) + " after";
  }
  return outcome;
}

}  // namespace

const std::vector<int>& ways_to_fail(sys::Call call) {
  using sys::Call;
  static const std::vector<int> opens = {EMFILE, ENFILE, ENOMEM, EACCES,     EPERM,  EROFS,
                                         ENOSPC, EDQUOT, EIO,    EOPNOTSUPP, ESTALE, EINTR};
  static const std::vector<int> looks = {EACCES, EIO, ENOMEM, ESTALE, EINTR};
  static const std::vector<int> names = {ENOSPC, EDQUOT, EIO, EACCES, EPERM, EROFS, ENOMEM, EOPNOTSUPP, ESTALE, EINTR};
  static const std::vector<int> removals = {EACCES, EPERM, EROFS, EIO, ENOMEM, ESTALE, EBUSY, EINTR};
  static const std::vector<int> reads = {EIO, EACCES, ENOMEM, ESTALE, EINTR, k_half};
  static const std::vector<int> writes = {ENOSPC, EDQUOT, EIO, EPERM, EFBIG, ENOMEM, ESTALE, EINTR, k_half, k_nothing};
  static const std::vector<int> changes = {ENOSPC, EDQUOT, EIO, EPERM, EROFS, ESTALE, EINTR};
  static const std::vector<int> locks = {ENOLCK, EOPNOTSUPP, ENOMEM, EIO, ESTALE, EINTR, EWOULDBLOCK};
  static const std::vector<int> queries = {ENOLCK, EOPNOTSUPP, EACCES, ENOMEM, EIO, ESTALE, EINTR};
  static const std::vector<int> instances = {EMFILE, ENFILE, ENOMEM};
  static const std::map<Call, std::vector<int>> others = {
      {Call::faccessat, {EACCES, EROFS, EIO, ENOMEM, ESTALE, EINTR}},
      {Call::fcntl, {EPERM, EINTR}},
      {Call::lseek, {EINVAL, EIO, ESTALE, EINTR}},
      {Call::fgetxattr, {EIO, EACCES, ENOMEM, ESTALE, EINTR}},
      {Call::fstatfs, {EIO, ENOMEM, ENOSYS, ESTALE, EINTR}},
      {Call::kill, {EPERM, ENOSYS}},
      {Call::poll, {ENOMEM, EINTR}},
      {Call::inotify_add_watch, {ENOSPC, ENOMEM, EACCES}},
      {Call::inotify_rm_watch, {EINVAL}},
      {Call::pidfd_open, {EMFILE, ENFILE, ENOMEM, ENOSYS, EPERM}},
      {Call::pidfd_send_signal, {EPERM, ENOSYS}},
      {Call::posix_spawn, {ENOMEM, EAGAIN}},
      {Call::getrandom, {ENOSYS, EINTR}},
      {Call::read, {EINTR}},  // of an eventfd, an inotify instance or a pipe
  };
  switch (call) {
    case Call::openat:
      return opens;
    case Call::getdents64:
    case Call::fstat:
    case Call::fstatat:
    case Call::statx:
    case Call::readlinkat:
      return looks;
    case Call::linkat:
    case Call::renameat:
    case Call::renameat2:
      return names;
    case Call::unlinkat:
      return removals;
    case Call::pread:
      return reads;
    case Call::write:
      return writes;
    case Call::ftruncate:
    case Call::fsync:
    case Call::futimens:
    case Call::fchmod:
    case Call::fchown:
      return changes;
    case Call::flock:
      return locks;
    case Call::ofd_setlk:
    case Call::ofd_getlk:
      return queries;
    case Call::eventfd:
    case Call::inotify_init:
    case Call::pipe:
      return instances;
    default:
      break;
  }
  const auto found = others.find(call);
  return found != others.end() ? found->second : looks;  // a call that is new here fails as a look does, at least
}

void inject_faults(const FaultPlan& plan) {
  const auto start = Clock::now();
  std::size_t cases = 0;
  std::size_t calls = 0;
  int complaints = 0;
  Clock::duration longest{};
  Fault slowest;
  (void)run_case(plan, k_calls_max, 0, false);  // what is kept open for good is opened now
  for (const bool lasting : {false, true}) {
    if (lasting && (k_slow || !plan.with_lasting)) {
      break;
    }
    bool reached = true;
    for (std::size_t number = 1; reached && number < k_calls_max; ++number) {
      for (std::size_t way = 0;; ++way) {
        const auto begin = Clock::now();
        const Outcome outcome = run_case(plan, number, way, lasting);
        reached = outcome.reached;
        if (!outcome.fault) {
          break;
        }
        calls = number;
        cases += outcome.counts ? 1 : 0;
        if (Clock::now() - begin > longest) {
          longest = Clock::now() - begin;
          slowest = *outcome.fault;
        }
        if (!outcome.complaint.empty() && ++complaints <= k_complaints_max) {
          FAIL_CHECK(plan.operation << ": " << describe(*outcome.fault) << ": " << outcome.complaint);
        }
      }
    }
  }
  CHECK(complaints == 0);
  CHECK(cases > 0);
  g_total.cases += cases;
  const auto ms = [](Clock::duration time) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(time).count();
  };
  std::cout << "faults: " << plan.operation << ": " << cases << " cases at " << calls << " calls, " << complaints
            << " complaints, " << ms(Clock::now() - start) << " ms (longest " << ms(longest)
            << " ms: " << describe(slowest) << ")\n"
            << std::flush;
}

KnownTraits::KnownTraits(const fs::path& directory) {
  auto opened = open_directory(directory);
  if (!opened) {
    throw std::runtime_error(opened.error().message());
  }
  traits_ = (*opened)->traits;
  local_ = traits_->local;
  forget();
}

KnownTraits::~KnownTraits() {
  traits_->local = local_;
  forget();
}

void KnownTraits::settle() const {
  forget();
  traits_->naming.store(Naming::empty_path);
  traits_->locks_tried.store(true);
  traits_->names_tried.store(true);
  traits_->inodes_trusted.store(true);
}

void KnownTraits::forget() const {
  traits_->naming.store(Naming::untried);
  traits_->locks_tried.store(false);
  traits_->record_locks.store(true);
  traits_->names_tried.store(false);
  traits_->locks_are_per_name.store(false);
  traits_->exchanges_names.store(true);
  traits_->inodes_trusted.store(false);
}

Workplace::Workplace() {
  // On a disk each case would wait for its journal.
  static const std::optional<TmpfsMount> mount = TmpfsMount::mount("size=64m");
  static std::size_t number = 0;
  path_ = (mount ? mount->path() : fs::temp_directory_path()) /
          ("case" + std::to_string(::getpid()) + "-" + std::to_string(++number));
  fs::create_directory(path_);
}

Workplace::~Workplace() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

std::size_t count_descriptors() {
  std::size_t count = 0;
  DIR* const directory = ::opendir("/proc/self/fd");
  while (::readdir(directory) != nullptr) {
    ++count;
  }
  ::closedir(directory);
  return count;
}

}  // namespace sessionlock::test
