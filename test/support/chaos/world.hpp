#pragma once

/// \file
/// What all processes of a chaos run share, and the oracle: memory outside of the library in which each of them says
/// what it is doing, so that a second writer, a lost record or a lock taken from a living owner is seen at once.

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <optional>
#include <string>
#include <string_view>

#include <sys/types.h>

#include <sessionlock/staleness.hpp>

namespace sessionlock::test::chaos {

inline constexpr std::size_t k_sessions = 5;
inline constexpr std::size_t k_slots_max = 32;
/// The first ones are also used by programs of another kind. Their records cannot be judged from another time
/// namespace.
inline constexpr std::size_t k_foreign_sessions = 3;
/// Of one session; what comes after them is not written.
inline constexpr std::size_t k_records_max = std::size_t{1} << 22U;
/// How long a lock without an owner counts as one that is being written.
inline constexpr std::chrono::seconds k_grace{1};
/// How long a dead owner's lock may stay; far longer than it takes.
inline constexpr std::chrono::seconds k_bound{20};
/// How long an acquire may wait, whatever is stopped and killed meanwhile.
inline constexpr std::chrono::seconds k_timeout{40};

/// Names one thread of one process: its slot, its number in the process, and which process of the slot it is.
struct Token {
  std::size_t slot{};
  std::uint64_t incarnation{};
  std::uint64_t thread{0};
  /// Never 0.
  [[nodiscard]] std::uint64_t number() const { return (slot + 1) | thread << 8U | incarnation << 16U; }
  [[nodiscard]] static Token of(std::uint64_t number) {
    return {(number & 0xffU) - 1, number >> 16U, number >> 8U & 0xffU};
  }
};

/// A place in which there may be one thread at a time.
struct Section {
  /// The token's number; 0 for none.
  std::atomic<std::uint64_t> inside{0};
};

/// One session: the section of its guarded writes, and what became of each record.
class SharedSession {
 public:
  Section section{};

  /// The number of the next record to write; none once there are enough.
  [[nodiscard]] std::optional<std::uint64_t> next_record();
  /// The library said that the record is in the file.
  void acknowledge(std::uint64_t record) { acknowledged_[record / 64].fetch_or(bit(record)); }
  /// The library said that nothing of the record is in the file.
  void fail(std::uint64_t record) { failed_[record / 64].fetch_or(bit(record)); }

  [[nodiscard]] std::uint64_t record_count() const;
  [[nodiscard]] bool was_acknowledged(std::uint64_t record) const { return has(acknowledged_, record); }
  [[nodiscard]] bool has_failed(std::uint64_t record) const { return has(failed_, record); }

 private:
  using Bits = std::array<std::atomic<std::uint64_t>, k_records_max / 64>;
  static std::uint64_t bit(std::uint64_t record) { return std::uint64_t{1} << (record % 64); }
  static bool has(const Bits& bits, std::uint64_t record) { return (bits[record / 64].load() & bit(record)) != 0; }

  std::atomic<std::uint64_t> next_{0};
  Bits acknowledged_{};
  Bits failed_{};
};

/// What a child of a process does.
enum class Companion { starting, holding, releasing, failed };

/// Where processes follow each other.
struct Slot {
  std::atomic<std::uint64_t> incarnation{0};
  /// The process is about to end, wherever it is.
  std::atomic<bool> is_doomed{false};
  std::atomic<Companion> companion{};
  /// A process that does nothing; 0: none.
  std::atomic<pid_t> innocent{0};
};

/// How often something happened.
struct Figures {
  using Count = std::atomic<std::uint64_t>;
  Count acquisitions{0}, foreign_acquisitions{0}, refusals{0}, records{0}, lost{0}, forced{0}, planted{0}, swept{0},
      sweeps{0}, forks{0}, execs{0}, exits{0}, torn{0}, heirs{0}, longest_wait_ms{0};
  /// Of programs that close everything.
  Count closings{0}, descriptors_checked{0}, descriptors_touched{0};
  /// Through a second copy of the library in the same process.
  Count second_acquisitions{0};
  /// By wrong clocks: claims of a PID file, entries through a gate; steps of a clock and to another time namespace.
  Count claims{0}, gates{0}, steps{0}, travels{0};
  /// Calls about files that are no locks; those files, deleted or changed.
  Count visits{0}, bystanders_hurt{0};
  /// Of neighbours: what they did, the lies and obstacles they planted; acquires and writes that these made fail.
  Count attacks{0}, lies{0}, obstacles{0}, obstructed{0};
  std::array<Count, k_stale_reason_count> reclaims{};
};

/// Lies in memory that all processes share, and is made there by `make`.
class World {
 public:
  std::array<SharedSession, k_sessions> sessions{};
  std::array<Slot, k_slots_max> slots{};
  /// There is one daemon at a time, by its PID file, and one at the work behind the gate.
  Section daemon{}, gate{};
  /// Whether processes of another user are at work in the directory.
  bool has_neighbour{false};
  /// When the run began, by the kernel's clock.
  std::time_t began{std::time(nullptr)};
  /// Everybody is to end.
  std::atomic<bool> is_over{false};
  Figures figures{};

  /// Lifetime: that of the process and its children.
  [[nodiscard]] static World& make();

  /// Complains unless the section is empty, or its thread was killed there.
  void enter(Section& section, const Token& token);
  /// Complains unless the section is still this thread's.
  void leave(Section& section, const Token& token);

  /// To be called before a lock is forced, so that its owner finds it.
  void remember_forced(std::string_view lock_id);
  [[nodiscard]] bool was_forced(std::string_view lock_id) const;

  /// A violation.
  void complain(const std::string& what);
  [[nodiscard]] std::uint64_t violation_count() const { return violation_count_.load(); }
  /// One of the first violations; empty for one that there was no room for.
  [[nodiscard]] std::string violation(std::size_t number) const;

 private:
  World() = default;
  static constexpr std::size_t k_violations_kept = 256;
  static constexpr std::size_t k_alike_kept = 16;
  /// How much of the words two violations of one kind have in common.
  static constexpr std::size_t k_kind_length = 24;
  static constexpr std::size_t k_forced_kept = 4096;
  std::array<std::array<char, 33>, k_forced_kept> forced_ids_{};
  std::atomic<std::uint64_t> forced_count_{0};
  std::atomic<std::uint64_t> violation_count_{0};
  std::atomic<std::size_t> kept_count_{0};
  std::array<std::array<char, 400>, k_violations_kept> violations_{};
};

}  // namespace sessionlock::test::chaos
