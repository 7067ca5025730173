#pragma once

/// \file
/// As whom and where the processes of a chaos run act: a directory that several users share, and time namespaces.

#include <cstddef>
#include <filesystem>
#include <vector>

#include "chaos/actor.hpp"

namespace sessionlock::test::chaos {

/// For `TmpfsMount`: a directory that a group may write, in which each user can only remove what is its own.
[[nodiscard]] const char* shared_directory_options();
/// Makes the sessions there, which the group may write as well.
void make_shared_sessions(const std::filesystem::path& directory);
/// Becomes the user as whom a role acts in a shared directory, for good.
void become(As as, std::size_t slot);
/// Open descriptors of this process's time namespace, in which its children begin, and of three others.
[[nodiscard]] std::vector<int> make_time_namespaces();

}  // namespace sessionlock::test::chaos
