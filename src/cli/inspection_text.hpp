#pragma once

/// \file
/// Inspections as people and programs read them.

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include <sessionlock/error.hpp>
#include <sessionlock/staleness.hpp>

#include "cli/json_writer.hpp"
#include "cli/terminal.hpp"

namespace sessionlock::cli {

/// An inspected lock as one JSON object.
void write_json(JsonWriter& json, const Inspection& inspection);
/// A session whose lock path has no lock file, or could not be looked at: the same members, with `error`.
void write_json(JsonWriter& json, const std::filesystem::path& session, const Error& error);

/// The reasons as one word each: `dead-pid too-old`. Empty where there are none.
[[nodiscard]] std::string reason_words(const Inspection& inspection);

/// A paragraph about one lock.
[[nodiscard]] std::string describe(const Inspection& inspection, const Palette& palette);

/// A table of locks, a line each, under a heading. Paths below `directory`, which is canonical, are shown relative to
/// it.
[[nodiscard]] std::string table(std::span<const Inspection> locks, const std::filesystem::path& directory,
                                const Palette& palette);

/// The session's path relative to `directory`, made printable; the lock's where the session is not known.
[[nodiscard]] std::string relative_to(const Inspection& inspection, const std::filesystem::path& directory);

[[nodiscard]] Colour colour_of(LockState state);

}  // namespace sessionlock::cli
