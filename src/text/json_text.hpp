#pragma once

/// \file
/// Text as JSON strings. Part of the `lock_record` room.

#include <string>
#include <string_view>

namespace sessionlock::json {

/// Appends a text as a JSON string, quotes included. A byte that is part of no UTF-8 character becomes U+FFFD, so that
/// the result is always JSON.
void append_string(std::string& out, std::string_view text);

}  // namespace sessionlock::json
