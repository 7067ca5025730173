#include "chaos/cast.hpp"

#include <cstdlib>
#include <string>

#include "chaos/bystanders.hpp"
#include "chaos/clocks.hpp"
#include "chaos/closer.hpp"
#include "chaos/neighbour.hpp"
#include "chaos/others.hpp"
#include "chaos/twin.hpp"
#include "chaos/writer.hpp"

namespace sessionlock::test::chaos {
namespace {

/// `SESSIONLOCK_CHAOS_KINDS` names the hostile roles that take part, between commas; by default all do.
bool is_wanted(std::string_view name) {
  const char* const kinds = std::getenv("SESSIONLOCK_CHAOS_KINDS");
  return kinds == nullptr || *kinds == '\0' ||
         (',' + std::string(kinds) + ',').find(',' + std::string(name) + ',') != std::string::npos;
}

}  // namespace

Cast chaos_cast() {
  Cast cast(6, {.name = "writer", .make = make_actor<Writer>, .deed = &Figures::records});
  cast.front().may_be_killed = false;
  cast.insert(cast.end(), 2,
              {.name = "foreigner",
               .make = make_actor<Foreigner>,
               .deed = &Figures::foreign_acquisitions,
               .may_be_stopped = false});
  cast.push_back({.name = "sweeper", .make = make_actor<Sweeper>, .deed = &Figures::sweeps});
  cast.push_back({.name = "forcer", .make = make_actor<Forcer>, .deed = &Figures::forced});
  cast.push_back({.name = "planter", .make = make_actor<Planter>, .deed = &Figures::planted});
  return cast;
}

Cast hostile_cast() {
  Cast cast = chaos_cast();
  const auto add = [&](std::size_t count, const Role& role) {
    if (is_wanted(role.name)) {
      cast.insert(cast.end(), count, role);
    }
  };
  add(2, {.name = "closer", .make = make_actor<Closer>, .deed = &Figures::closings});
  add(2, {.name = "twin", .make = make_actor<Twin>, .deed = &Figures::second_acquisitions});
  add(2, {.name = "clock", .make = make_actor<ClockWriter>, .deed = &Figures::steps});
  add(1, {.name = "traveller", .make = make_actor<Traveller>, .deed = &Figures::travels, .as = As::time_owner});
  add(3, {.name = "claimant", .make = make_actor<Claimant>, .deed = &Figures::claims, .as = As::time_owner});
  add(1, {.name = "visitor", .make = make_actor<Visitor>, .deed = &Figures::visits});
  add(2, {.name = "innocent", .make = make_actor<Innocent>});
  add(2, {.name = "neighbour",
          .make = make_actor<Neighbour>,
          .deed = &Figures::lies,
          .as = As::neighbour,
          .clean_up = Neighbour::clean_up});
  return cast;
}

}  // namespace sessionlock::test::chaos
