#pragma once

/// \file
/// How a record names the file that its witness lock is on.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace sessionlock {

/// Which file it is, as stat(2) numbers it.
struct FileIdentity {
  std::uint64_t device{};
  std::uint64_t inode{};
  friend bool operator==(const FileIdentity&, const FileIdentity&) = default;
};

/// What the publisher of a witness took its file system for.
enum class WitnessForm : std::uint8_t {
  ofd,  ///< `ofd:`. Nothing, or an overlay, which another kernel may show with the same device and inode numbers.
  ofd2  ///< `ofd2:`. Local to its own kernel, so that whoever sees a file with these numbers sees this very file.
};

/// A witness as a record declares it: on which file its owner has the kernel lock.
struct DeclaredWitness {
  WitnessForm form{};
  FileIdentity file{};
  friend bool operator==(const DeclaredWitness&, const DeclaredWitness&) = default;
};

/// The text of a `witness` field: `ofd2:<st_dev>:<st_ino>`, or `ofd:` with the same, in decimal.
[[nodiscard]] std::string format_witness(const DeclaredWitness& witness);
/// None: the text does not have that form.
[[nodiscard]] std::optional<DeclaredWitness> parse_witness(std::string_view text);

}  // namespace sessionlock
