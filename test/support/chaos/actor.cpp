#include "chaos/actor.hpp"

#include <string>
#include <thread>

namespace sessionlock::test::chaos {

Actor::Actor(const Stage& stage)
    : stage_(stage), token_{stage.slot, stage.world.slots[stage.slot].incarnation.load()}, random_(stage.seed) {}

void Actor::run() {
  while (!world().is_over.load()) {
    act();
  }
}

void Actor::pause(std::chrono::microseconds longest) {
  std::this_thread::sleep_for(std::chrono::microseconds(any(static_cast<std::uint64_t>(longest.count()) + 1)));
}

std::filesystem::path Actor::session(std::size_t number) const {
  return session_path(stage_.directory, number);
}

std::filesystem::path Actor::lock_of(std::size_t number) const {
  return session(number).native() + ".lock";
}

std::filesystem::path session_path(const std::filesystem::path& directory, std::size_t number) {
  return directory / (std::to_string(number) + ".jsonl");
}

}  // namespace sessionlock::test::chaos
