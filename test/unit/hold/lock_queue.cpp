// The queue of a process in front of one lock, without a thread: tickets are answered, and their slots woken.

#include "hold/lock_queue.hpp"

#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include <doctest/doctest.h>

#include "hold/record_draft.hpp"
#include "lock_tools.hpp"
#include "protocol/publication.hpp"
#include "script.hpp"

using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;
using Kind = QueueResult::Kind;

namespace {

const Deadline k_patient{k_patience};

/// One that wants the lock, as if it were a thread of its own.
struct Contender {
  explicit Contender(ThreadToken token, AcquireOptions how = {}) : options(std::move(how)), thread(token) {}
  [[nodiscard]] QueueResult enter(const Session& session, const Deadline& deadline = k_patient) {
    location.emplace(located(session.path));
    ticket.emplace(options, thread, slot);
    return ticket->enter(key_of(*location), deadline);
  }
  [[nodiscard]] bool was_woken() { return slot.take_cause() == WakeCause::called; }

  AcquireOptions options;
  ThreadToken thread;
  Parker parker{};
  WaitSlot slot{parker};
  std::optional<SessionLocation> location{};
  std::optional<Ticket> ticket{};
};

AcquireOptions reentrant(std::string owner = "an owner") {
  AcquireOptions options;
  options.reentrant = true;
  options.owner = std::move(owner);
  return options;
}

/// A published lock, as the contender that has the turn makes one.
std::shared_ptr<Hold> hold_of(const Session& session, const AcquireOptions& options = {}) {
  SessionLocation location = located(session.path);
  auto record = draft_record(options, location, false);
  REQUIRE(record.has_value());
  auto published = publish(location.lock, *record, {});
  REQUIRE(published.has_value());
  REQUIRE(published->file.has_value());
  auto hold = std::make_shared<Hold>(HoldParams{
      .options = std::make_shared<const ManagerOptions>(), .owner = options.owner, .reentrant = options.reentrant});
  hold->begin({.location = std::move(location), .file = std::move(*published->file), .record = std::move(*record)});
  return hold;
}

}  // namespace

TEST_CASE("turns are given in the order in which the tickets entered, and each wakes its own slot") {
  const Session session;
  std::array<Contender, 4> contenders{Contender(1), Contender(2), Contender(3), Contender(4)};
  std::optional<QueueResult> answer = contenders[0].enter(session);
  REQUIRE(answer->kind == Kind::turn);
  for (std::size_t i = 1; i < contenders.size(); ++i) {
    CHECK(contenders[i].enter(session).kind == Kind::queued);
  }
  for (std::size_t i = 1; i < contenders.size(); ++i) {
    CHECK(contenders[i].ticket->ask().kind == Kind::queued);
    CHECK(!contenders[i].was_woken());
    answer.reset();
    CHECK(contenders[i].was_woken());
    answer = contenders[i].ticket->ask();
    REQUIRE(answer->kind == Kind::turn);
    CHECK(contenders[i].ticket->ask().kind == Kind::queued);  // an answer is given once
  }
  answer.reset();
  CHECK(Contender(5).enter(session).kind == Kind::turn);  // nothing is left of the queue
}

TEST_CASE("a turn becomes a hold, and goes on when the hold ends") {
  const Session session;
  Contender first(1);
  Contender second(2);
  QueueResult answer = first.enter(session);
  REQUIRE(answer.kind == Kind::turn);
  REQUIRE(second.enter(session).kind == Kind::queued);
  const auto hold = hold_of(session);
  answer.turn->hand_to(hold);
  answer.turn.reset();
  CHECK(is_held_here(hold->file()));
  CHECK(second.ticket->ask().kind == Kind::queued);
  REQUIRE(hold->release().has_value());
  CHECK(!is_held_here(hold->file()));
  CHECK(second.was_woken());
  CHECK(second.ticket->ask().kind == Kind::turn);
}

TEST_CASE("a ticket that leaves lets those behind it move up") {
  const Session session;
  Contender first(1);
  Contender second(2);
  Contender third(3);
  std::optional<QueueResult> answer = first.enter(session);
  REQUIRE(second.enter(session).kind == Kind::queued);
  REQUIRE(third.enter(session).kind == Kind::queued);
  CHECK(second.ticket->leave().kind == Kind::queued);
  answer.reset();
  CHECK(!second.was_woken());
  CHECK(third.ticket->ask().kind == Kind::turn);
}

TEST_CASE("a ticket that was answered before it leaves has the answer") {
  const Session session;
  Contender first(1, reentrant());
  Contender second(2);
  Contender third(3, reentrant());
  std::optional<QueueResult> answer = first.enter(session);
  REQUIRE(second.enter(session).kind == Kind::queued);
  REQUIRE(third.enter(session).kind == Kind::queued);
  SUBCASE("a turn") {
    answer.reset();
    CHECK(second.ticket->leave().kind == Kind::turn);
  }
  SUBCASE("a share") {
    const auto hold = hold_of(session, first.options);
    answer->turn->hand_to(hold);
    const QueueResult left = third.ticket->leave();
    CHECK(left.kind == Kind::shared);
    CHECK(left.hold == hold);
    CHECK(hold->depth() == 2);
    CHECK(!hold->abandon_share());
    REQUIRE(hold->release().has_value());
  }
}

TEST_CASE("an answer that was not taken goes on when its ticket ends") {
  const Session session;
  Contender first(1, reentrant());
  std::optional<Contender> second(std::in_place, 2, reentrant());
  Contender third(3);
  std::optional<QueueResult> answer = first.enter(session);
  REQUIRE(second->enter(session).kind == Kind::queued);
  REQUIRE(third.enter(session).kind == Kind::queued);
  SUBCASE("a turn to the next") {
    answer.reset();
    second.reset();
    CHECK(third.was_woken());
    CHECK(third.ticket->ask().kind == Kind::turn);
  }
  SUBCASE("a share to nobody") {
    const auto hold = hold_of(session, first.options);
    answer->turn->hand_to(hold);
    REQUIRE(hold->depth() == 2);
    second.reset();
    CHECK(hold->depth() == 1);
    CHECK(!hold->has_ended());
    REQUIRE(hold->release().has_value());
  }
  SUBCASE("the last share, to nobody: the lock is released") {
    const auto hold = hold_of(session, first.options);
    answer->turn->hand_to(hold);
    CHECK(!hold->abandon_share());
    second.reset();
    CHECK(hold->has_ended());
    CHECK(!std::filesystem::exists(session.lock));
    CHECK(third.ticket->ask().kind == Kind::turn);
  }
}

TEST_CASE("a hold is shared with every ticket of its owner, whenever it entered, and with no other") {
  const Session session;
  Contender first(1, reentrant());
  Contender stranger(2, reentrant("another owner"));
  Contender own(3, reentrant());
  QueueResult answer = first.enter(session);
  REQUIRE(stranger.enter(session).kind == Kind::queued);
  REQUIRE(own.enter(session).kind == Kind::queued);
  const auto hold = hold_of(session, first.options);
  answer.turn->hand_to(hold);
  CHECK(own.was_woken());
  CHECK(own.ticket->ask().kind == Kind::shared);
  Contender late(4, reentrant());
  CHECK(late.enter(session).kind == Kind::shared);
  CHECK(hold->depth() == 3);
  CHECK(!stranger.was_woken());
  CHECK(stranger.ticket->ask().kind == Kind::queued);
  REQUIRE(hold->release().has_value());
  CHECK(stranger.ticket->ask().kind == Kind::turn);
}

TEST_CASE("a single try does not queue, and a thread does not queue without end behind itself") {
  const Session session;
  const Deadline unlimited{std::chrono::milliseconds::max()};
  const ThreadToken here = this_thread();
  Contender first(here);
  QueueResult answer = first.enter(session);
  CHECK(Contender(2).enter(session, Deadline(0ms)).kind == Kind::busy);
  const auto hold = hold_of(session);
  answer.turn->hand_to(hold);
  CHECK(Contender(2).enter(session, Deadline(0ms)).kind == Kind::busy);
  CHECK(Contender(here).enter(session, unlimited).kind == Kind::self_deadlock);
  CHECK(Contender(here).enter(session).kind == Kind::queued);  // its time will be over
  CHECK(Contender(here + 1).enter(session, unlimited).kind == Kind::queued);
  REQUIRE(hold->release().has_value());
}

TEST_CASE("a forked child stands in no queue of its parent") {
  const Session session;
  Contender first(1);
  std::optional<Contender> second(std::in_place, 2);
  std::optional<QueueResult> answer = first.enter(session);
  REQUIRE(second->enter(session).kind == Kind::queued);
  auto child = ChildProcess::run([&](Channel&) {
    second.reset();
    REQUIRE_IN_CHILD(Contender(3).enter(session).kind == Kind::turn);
    return 0;
  });
  CHECK(child.wait().exited_with(0));
  answer.reset();
  CHECK(second->ticket->ask().kind == Kind::turn);
}
