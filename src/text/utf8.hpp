#pragma once

/// \file
/// Whether bytes are UTF-8.

#include <string_view>

namespace sessionlock {

/// Whether a text is valid UTF-8 (RFC 3629). Thread safety: safe. Callable until the process has ended.
[[nodiscard]] bool is_utf8(std::string_view text);

}  // namespace sessionlock
