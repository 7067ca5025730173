#pragma once

/// \file
/// What makes a lock the same lock, whatever path led to it.

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "protocol/session_location.hpp"
#include "record/witness.hpp"

namespace sessionlock {

struct HoldKey {
  FileIdentity directory;
  std::string name;
  friend bool operator==(const HoldKey&, const HoldKey&) = default;
};
/// A key to look for, without a name of its own: that would take memory, which the end of a hold must do without.
struct HoldKeyView {
  FileIdentity directory;
  std::string_view name;
  friend bool operator==(const HoldKeyView&, const HoldKeyView&) = default;
  friend bool operator==(const HoldKeyView& view, const HoldKey& key) noexcept {
    return view.name == key.name && view.directory == key.directory;
  }
};
/// Lifetime: the location's.
[[nodiscard]] inline HoldKeyView key_of(const SessionLocation& location) noexcept {
  return {location.lock.directory->identity, location.lock.name};
}

/// Hashes both alike, so that a map of keys can be searched with a view.
struct HashHoldKey {
  using is_transparent = void;  // NOLINT(readability-identifier-naming): the name that the standard library looks for
  std::size_t operator()(const HoldKeyView& key) const noexcept {
    return std::hash<std::string_view>{}(key.name) ^ (key.directory.inode * 0x9e3779b97f4a7c15U) ^ key.directory.device;
  }
  std::size_t operator()(const HoldKey& key) const noexcept { return (*this)(HoldKeyView{key.directory, key.name}); }
};

}  // namespace sessionlock
