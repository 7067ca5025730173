#include "chaos/world.hpp"

#include <algorithm>
#include <cstdio>
#include <new>

#include <sys/mman.h>

#include "process.hpp"

namespace sessionlock::test::chaos {

std::optional<std::uint64_t> SharedSession::next_record() {
  const std::uint64_t record = next_.fetch_add(1);
  return record < k_records_max ? std::optional(record) : std::nullopt;
}

std::uint64_t SharedSession::record_count() const {
  return std::min<std::uint64_t>(next_.load(), k_records_max);
}

World& World::make() {
  void* const memory = ::mmap(nullptr, sizeof(World), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    throw ProcessFailure("mmap");
  }
  return *new (memory) World;
}

void World::enter(Section& section, const Token& token) {
  const std::uint64_t before = section.inside.exchange(token.number());
  if (before == 0) {
    return;
  }
  const Token other = Token::of(before);
  const Slot& slot = slots[other.slot];
  if (slot.incarnation.load() == other.incarnation && !slot.is_doomed.load()) {
    complain("two were inside at once: slot " + std::to_string(other.slot) + ", then slot " +
             std::to_string(token.slot));
  }
}

void World::leave(Section& section, const Token& token) {
  std::uint64_t expected = token.number();
  if (!section.inside.compare_exchange_strong(expected, 0)) {
    complain("another came in while slot " + std::to_string(token.slot) + " was inside");
  }
}

void World::remember_forced(std::string_view lock_id) {
  auto& kept = forced_ids_[forced_count_.fetch_add(1) % k_forced_kept];
  std::snprintf(kept.data(), kept.size(), "%.*s", static_cast<int>(lock_id.size()), lock_id.data());
}

bool World::was_forced(std::string_view lock_id) const {
  return std::any_of(forced_ids_.begin(), forced_ids_.end(), [&](const auto& id) { return lock_id == id.data(); });
}

void World::complain(const std::string& what) {
  ++violation_count_;
  // Many of one kind leave room for the others.
  const std::string kind = what.substr(0, k_kind_length);
  const auto alike = std::count_if(violations_.begin(), violations_.end(),
                                   [&](const auto& kept) { return std::string_view(kept.data()).starts_with(kind); });
  const auto number = static_cast<std::size_t>(alike) < k_alike_kept ? kept_count_.fetch_add(1) : violations_.size();
  if (number < violations_.size()) {
    std::snprintf(violations_[number].data(), violations_[number].size(), "%s", what.c_str());
  }
}

std::string World::violation(std::size_t number) const {
  return number < violations_.size() ? violations_[number].data() : "";
}

}  // namespace sessionlock::test::chaos
