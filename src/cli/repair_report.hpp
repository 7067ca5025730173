#pragma once

/// \file
/// Prints what an append, or `run`, did to the end of a session that a crash had left incomplete.

#include <filesystem>

#include <sessionlock/transcript.hpp>

namespace sessionlock::cli {

/// Prints a line for each thing that was done; nothing if the end was whole.
void print_repair(const AppendReport& report, const std::filesystem::path& session);

}  // namespace sessionlock::cli
