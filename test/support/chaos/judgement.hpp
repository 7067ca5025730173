#pragma once

/// \file
/// What is looked at when all processes of a chaos run have ended.

#include <cstddef>
#include <filesystem>

#include "chaos/world.hpp"

namespace sessionlock::test::chaos {

/// Every acknowledged record is in the file once, every failed one nowhere, and every line is whole.
void judge_session(World& world, const std::filesystem::path& directory, std::size_t number);
/// Nothing is left but the sessions and what was torn off them.
void judge_directory(World& world, const std::filesystem::path& directory);

}  // namespace sessionlock::test::chaos
