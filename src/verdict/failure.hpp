#pragma once

/// \file
/// An error about a path, as the answer of a function. Part of the `error` room.

#include <filesystem>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include <sessionlock/error.hpp>

namespace sessionlock {

/// What was tried, on which path, and why it failed; `detail` says what the code does not.
inline tl::unexpected<Error> failure(std::error_code code, std::string operation, std::filesystem::path path,
                                     std::string detail = {}) {
  return tl::unexpected(Error{code, std::move(operation), std::move(path), std::nullopt, std::move(detail)});
}

}  // namespace sessionlock
