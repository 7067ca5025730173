#include "chaos/twin.hpp"

#include <thread>

namespace sessionlock::test::chaos {

Twin::Twin(const Stage& stage) : Writer(stage), copy_(SecondCopy::load()) {}

void Twin::act() {
  std::vector<std::size_t> numbers(20);
  for (auto& number : numbers) {
    number = any(k_sessions);
  }
  std::thread other([&] {
    for (const std::size_t number : numbers) {
      use_second(number);
    }
  });
  for (std::size_t round = 0; round < numbers.size(); ++round) {
    Writer::act();
  }
  other.join();
}

void Twin::use_second(std::size_t number) {
  auto lock = copy_.acquire(session(number), acquire_options(k_timeout));
  if (!lock) {
    judge_refusal(lock.error());
    return;
  }
  ++figures().second_acquisitions;
  const std::string id = lock->lock_id();
  Token me = token();
  me.thread = 1;
  if (const auto record = next_record(number)) {
    Section& section = world().sessions[number].section;
    const auto appended = lock->append(
        record->text, [&](bool before) { before ? world().enter(section, me) : world().leave(section, me); });
    settle_record(number, *record, appended.has_value());
    if (!appended) {
      judge_loss(appended.error(), id);
    }
  }
  if (const auto released = lock->release(); !released) {
    judge_loss(released.error(), id);
  }
}

}  // namespace sessionlock::test::chaos
