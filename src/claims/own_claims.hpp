#pragma once

/// \file
/// The PID files that this process claims, by inode: a file system may carry no witness, and a pid alone does not tell
/// this process's claim from what a former process of the same number left.

#include "record/witness.hpp"

namespace sessionlock {

/// One claim of this process, for as long as it lives. Move-only. Thread safety: safe.
class OwnClaim {
 public:
  explicit OwnClaim(const FileIdentity& file);
  ~OwnClaim();
  OwnClaim(const OwnClaim&) = delete;
  OwnClaim& operator=(const OwnClaim&) = delete;

 private:
  const FileIdentity file_;
};

/// Whether this process claims the PID file that this inode is; a child claims none of its parent's.
[[nodiscard]] bool is_own_claim(const FileIdentity& file);

}  // namespace sessionlock
