#include "chaos/report.hpp"

#include <iostream>

namespace sessionlock::test::chaos {
namespace {

void report_locks(const Figures& count, const Blows& blows) {
  std::cout << "chaos: " << count.acquisitions << " acquisitions, " << count.foreign_acquisitions
            << " by other programs, " << count.refusals << " refused; " << count.records << " records acknowledged\n"
            << "chaos: " << blows.kills << " kills, " << blows.stops << " stops, " << count.exits
            << " exits with the lock, " << count.torn << " of them inside a line, " << count.execs << " execs, "
            << count.heirs << " heirs, " << count.forks << " forks inside, " << blows.starts << " starts, "
            << blows.recycled << " of them with the pid of the one before\n"
            << "chaos: " << count.planted << " dead locks planted, " << count.forced << " locks forced, " << count.lost
            << " found lost, " << count.swept << " swept in " << count.sweeps << " sweeps\n"
            << "chaos: taken over:";
  for (std::size_t reason = 0; reason < k_stale_reason_count; ++reason) {
    if (const auto reclaims = count.reclaims[reason].load(); reclaims > 0) {
      std::cout << ' ' << to_string(static_cast<StaleReason>(reason)) << ' ' << reclaims << ';';
    }
  }
  const auto dead = std::chrono::duration_cast<std::chrono::milliseconds>(blows.longest_dead);
  std::cout << " longest wait " << count.longest_wait_ms << " ms, longest seen dead " << dead.count() << " ms\n";
}

void report_hostile(const Figures& count) {
  std::cout << "chaos: " << count.closings << " times everything was closed, " << count.descriptors_checked
            << " descriptors looked at; " << count.second_acquisitions << " acquisitions through a second copy\n"
            << "chaos: by wrong clocks: " << count.claims << " daemons, " << count.gates << " times through a gate, "
            << count.steps << " steps of a clock, " << count.travels << " between time namespaces\n"
            << "chaos: " << count.visits << " calls about files that are no locks; " << count.attacks
            << " attacks by neighbours, " << count.lies << " locks that lie, " << count.obstacles << " obstacles, "
            << count.obstructed << " calls that these made fail\n";
}

}  // namespace

void report(const World& world, const Blows& blows) {
  const Figures& count = world.figures;
  report_locks(count, blows);
  if (world.has_neighbour) {
    report_hostile(count);
  }
  const auto violations = world.violation_count();
  std::cout << "chaos: " << violations << " violations";
  if (world.has_neighbour) {
    std::cout << ", " << count.descriptors_touched << " foreign descriptors touched, " << count.bystanders_hurt
              << " files deleted that are no locks";
  }
  std::cout << '\n';
  for (std::uint64_t i = 0; i < violations && !world.violation(i).empty(); ++i) {
    std::cout << "VIOLATION: " << world.violation(i) << '\n';
  }
  std::cout << std::flush;
}

}  // namespace sessionlock::test::chaos
