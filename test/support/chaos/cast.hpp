#pragma once

/// \file
/// Who takes part in a chaos run.

#include "chaos/actor.hpp"

namespace sessionlock::test::chaos {

/// Writers, programs of another kind, a sweep, an operator who forces locks, and a planter of dead ones.
[[nodiscard]] Cast chaos_cast();

/// The same, and hostile ones, for a shared directory.
[[nodiscard]] Cast hostile_cast();

}  // namespace sessionlock::test::chaos
