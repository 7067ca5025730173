#pragma once

/// \file
/// Other people's text (labels, host names, paths) made fit for one line of a log or a terminal. Part of the
/// `lock_record` room.

#include <string>
#include <string_view>

namespace sessionlock {

/// The text with its control characters written as escapes (`\n`, `\x1b`, `\u009b`), so that it stays on one line and
/// cannot steer a terminal. Everything else is left as it is; text with nothing to escape comes back unchanged.
[[nodiscard]] std::string printable_text(std::string_view text);

/// As `printable_text`, and with escapes for what a reader could not see either: bytes that are no UTF-8 (`\xff`),
/// byte-order marks, spaces other than the plain one, and characters without a width (`\ufeff`, `\u00a0`, `\u200b`).
/// For text that is shown because something is wrong with it.
[[nodiscard]] std::string revealing_text(std::string_view text);

/// As `printable_text`, in double quotes, with `"` and `\` inside escaped too.
[[nodiscard]] std::string quoted_text(std::string_view text);

}  // namespace sessionlock
