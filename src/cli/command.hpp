#pragma once

/// \file
/// The commands, one file each. Each function returns the table of a command, with the action that runs it.

#include "cli/parser.hpp"

namespace sessionlock::cli {

[[nodiscard]] Command declare_run();
[[nodiscard]] Command declare_append();
[[nodiscard]] Command declare_status();
[[nodiscard]] Command declare_list();
[[nodiscard]] Command declare_clean();
[[nodiscard]] Command declare_wait();
[[nodiscard]] Command declare_watch();
[[nodiscard]] Command declare_doctor();
[[nodiscard]] Command declare_release();
[[nodiscard]] Command declare_pidfile();
[[nodiscard]] Command declare_sentinel();
[[nodiscard]] Command declare_gate();

}  // namespace sessionlock::cli
