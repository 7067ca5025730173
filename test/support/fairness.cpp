#include "fairness.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <new>
#include <stdexcept>
#include <thread>

#include <sys/mman.h>

#include <sessionlock/lock_manager.hpp>

#include "process.hpp"
#include "script.hpp"

namespace sessionlock::test {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

constexpr std::size_t k_processes_max = 16;
/// In memory that the processes share.
using Shares = std::array<Share, k_processes_max>;

class SharedShares {
 public:
  SharedShares()
      : shares_(new (::mmap(nullptr, sizeof(Shares), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))
                    Shares{}) {}
  ~SharedShares() { ::munmap(shares_, sizeof(Shares)); }
  SharedShares(const SharedShares&) = delete;
  SharedShares& operator=(const SharedShares&) = delete;
  /// Each is written by one process, and read when that has ended.
  [[nodiscard]] Share& operator[](std::size_t i) const { return shares_->at(i); }

 private:
  Shares* shares_;
};

void take_turns(const fs::path& session, Clock::time_point end, const Competitor& competitor, Share& share) {
  LockManager manager;
  while (Clock::now() < end) {
    const auto begin = Clock::now();
    auto lock = value_or_throw(manager.acquire(session, {.timeout = k_patience}));
    const auto waited = std::chrono::duration_cast<microseconds>(Clock::now() - begin);
    share.longest_wait = std::max(share.longest_wait, waited);
    share.waited += waited;
    ++share.acquisitions;
    if (competitor.hold > 0us) {
      std::this_thread::sleep_for(competitor.hold);
    }
    value_or_throw(lock.release());
    if (competitor.rest > 0us) {
      std::this_thread::sleep_for(competitor.rest);
    }
  }
}

}  // namespace

std::vector<Share> compete(const std::vector<Competitor>& competitors, std::chrono::milliseconds duration) {
  const TemporaryDirectory directory;
  const fs::path session = directory / "s.jsonl";
  const SharedShares shares;
  std::vector<ChildProcess> children;
  for (std::size_t i = 0; i < competitors.size(); ++i) {
    children.push_back(ChildProcess::run([&, i](Channel& parent) {
      parent.tell("ready");
      parent.expect("go");
      const Script script(competitors[i].polls ? failing(sys::Call::inotify_add_watch, ENOSPC)
                                               : [](const sys::CallInfo&) { return 0; });
      take_turns(session, Clock::now() + duration, competitors[i], shares[i]);
      return 0;
    }));
  }
  for (auto& child : children) {
    child.expect("ready");
  }
  for (auto& child : children) {
    child.tell("go");
  }
  std::vector<Share> result;
  for (std::size_t i = 0; i < competitors.size(); ++i) {
    if (!children[i].wait().exited_with(0)) {
      throw ProcessFailure("a competitor failed");
    }
    result.push_back(shares[i]);
  }
  return result;
}

microseconds longest_wait(const std::vector<Share>& shares) {
  microseconds longest{0};
  for (const Share& share : shares) {
    longest = std::max(longest, share.longest_wait);
  }
  return longest;
}

void print(const std::string& title, const std::vector<Share>& shares) {
  double all = 0;
  for (const Share& share : shares) {
    all += static_cast<double>(share.acquisitions);
  }
  std::printf("%s: %.0f acquisitions\n", title.c_str(), all);
  for (const Share& share : shares) {
    const auto acquisitions = static_cast<double>(share.acquisitions);
    std::printf("  %8.0f  %5.1f %%   longest wait %8.2f ms   mean wait %7.3f ms\n", acquisitions,
                100.0 * acquisitions / all, static_cast<double>(share.longest_wait.count()) / 1000,
                static_cast<double>(share.waited.count()) / 1000 / acquisitions);
  }
}

}  // namespace sessionlock::test
