#pragma once

/// \file
/// Checks inside new namespaces, said aloud where the machine does not allow them.

#include <functional>
#include <string>
#include <string_view>

#include <doctest/doctest.h>

#include "process.hpp"

namespace sessionlock::test {

inline constexpr std::string_view k_skip_prefix = "SKIP ";

/// Tells `check_in`, from inside, why the rest cannot be tried. Returns: what the body is to return.
inline int skip_from_inside(Channel& parent, std::string_view reason) {
  parent.tell(std::string(k_skip_prefix) + std::string(reason));
  return 0;
}

/// Runs `body` in new namespaces and expects 0; says so where that cannot be tried.
inline void check_in(const Namespaces& namespaces, const std::function<int(Channel&)>& body) {
  const auto run = run_in_namespaces(namespaces, body);
  if (!run.why_not.empty()) {
    skip_aloud("new namespaces are not allowed here: " + run.why_not);
    return;
  }
  if (run.output.starts_with(k_skip_prefix)) {
    skip_aloud(run.output.substr(k_skip_prefix.size(), run.output.find('\n') - k_skip_prefix.size()));
  }
  CHECK(run.ended.exited_with(0));
}

}  // namespace sessionlock::test
