#pragma once

/// \file
/// How a record names the file that its witness lock is on.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace sessionlock {

/// Which file it is, as stat(2) numbers it.
struct FileIdentity {
  std::uint64_t device{};
  std::uint64_t inode{};
  friend bool operator==(const FileIdentity&, const FileIdentity&) = default;
};

/// The text of a `witness` field that names this inode: `ofd:<st_dev>:<st_ino>` in decimal.
class WitnessText {
 public:
  explicit WitnessText(const FileIdentity& file);
  /// Lifetime: this object's.
  [[nodiscard]] std::string_view view() const noexcept { return {text_.data(), size_}; }

 private:
  /// "ofd:", two 64-bit numbers of at most 20 digits, and the colon between them.
  std::array<char, 45> text_{};
  std::size_t size_{0};
};
[[nodiscard]] std::string format_witness(const FileIdentity& file);

/// Whether a text has the form of a `witness` field.
[[nodiscard]] bool is_witness(std::string_view text);

}  // namespace sessionlock
