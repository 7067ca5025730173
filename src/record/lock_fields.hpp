#pragma once

/// \file
/// The names of a lock record's members.

#include <string_view>

namespace sessionlock {

/// Whether a lock record has a member of this name.
[[nodiscard]] bool is_lock_field(std::string_view name);
/// Whether a member of a lock record has a name that begins like this.
[[nodiscard]] bool begins_lock_field(std::string_view name);

}  // namespace sessionlock
