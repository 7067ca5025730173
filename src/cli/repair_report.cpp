#include "cli/repair_report.hpp"

#include <fmt/core.h>

#include "cli/exit_status.hpp"
#include "text/printable_text.hpp"

namespace sessionlock::cli {

void print_repair(const AppendReport& report, const std::filesystem::path& session) {
  const auto path = printable_text(session.native());
  if (report.torn_bytes_moved > 0) {
    print_error(fmt::format("an incomplete last line was moved to {}.torn ({} bytes)", path, report.torn_bytes_moved));
  }
  if (report.nul_bytes_cut > 0) {
    print_error(fmt::format("NUL bytes, such as a power cut leaves, were cut off the end of {} ({} bytes)", path,
                            report.nul_bytes_cut));
  }
  if (report.torn_bytes_left > 0) {
    print_error(
        fmt::format("an incomplete last line stays in {}, which can only be appended to, and was ended by a newline "
                    "({} bytes)",
                    path, report.torn_bytes_left));
  }
}

}  // namespace sessionlock::cli
