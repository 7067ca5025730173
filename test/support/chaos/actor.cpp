#include "chaos/actor.hpp"

#include <string>
#include <thread>

#include <unistd.h>

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

ManagerOptions Actor::manager_options() {
  ManagerOptions options;
  options.release_at_exit = false;
  return options;
}

AcquireOptions Actor::acquire_options(std::chrono::milliseconds timeout) {
  AcquireOptions options;
  options.stale.malformed_grace = k_grace;
  options.timeout = timeout;
  return options;
}

bool Actor::is_obstructed(const Error& error) const {
  const bool is_no_lock = error.code == Errc::not_a_lock_file;
  const bool is_kept_from_us =
      error.code == std::errc::permission_denied || error.code == std::errc::resource_unavailable_try_again;
  const bool may_be = is_no_lock || is_kept_from_us || error.code == Errc::aliased_session ||
                      error.code == Errc::timed_out || error.path.native().ends_with(".torn");
  const bool is = world().has_neighbour && may_be;
  figures().obstructed += is ? 1U : 0U;
  return is;
}

void Actor::judge_refusal(const Error& error) const {
  if (error.code == Errc::locked) {
    ++figures().refusals;
  } else if (error.code == Errc::timed_out || !is_obstructed(error)) {
    world().complain("acquire: " + error.message());
  }
}

void Actor::judge_loss(const Error& error, std::string_view lock_id) const {
  if (is_obstructed(error)) {
    return;
  }
  if (error.code != Errc::lost) {
    world().complain("write or release: " + error.message());
    return;
  }
  ++figures().lost;
  if (!world().was_forced(lock_id)) {
    world().complain("lost, and nobody forced it: " + error.message());
  }
}

std::optional<NumberedRecord> Actor::next_record(std::size_t number) const {
  const auto record = world().sessions[number].next_record();
  if (!record) {
    return std::nullopt;
  }
  return NumberedRecord{*record, "{\"record\":" + std::to_string(*record) + ",\"by\":" + std::to_string(::getpid()) +
                                     ",\"filler\":\"" + std::string(*record * 7 % 100, 'x') + "\"}"};
}

void Actor::settle_record(std::size_t number, const NumberedRecord& record, bool was_written) const {
  SharedSession& at = world().sessions[number];
  if (was_written) {
    at.acknowledge(record.number);
    ++figures().records;
  } else {
    at.fail(record.number);
  }
}

std::filesystem::path session_path(const std::filesystem::path& directory, std::size_t number) {
  return directory / (std::to_string(number) + ".jsonl");
}

}  // namespace sessionlock::test::chaos
