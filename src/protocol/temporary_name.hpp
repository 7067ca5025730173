#pragma once

/// \file
/// The name of a file that is not finished yet, where such a file must have one: `.<name>.<32 hex digits>.tmp`. It is
/// never longer than the name itself, or than 143 bytes if that is more: of a name that is too long for this it has the
/// end. The digits alone keep two such files apart.

#include <string>
#include <string_view>

#include <sessionlock/error.hpp>

#include "protocol/directory.hpp"
#include "text/timestamp.hpp"

namespace sessionlock {

/// The temporary name for a file that is to be called `name`. `id`: 32 hexadecimal digits that nobody else uses.
[[nodiscard]] std::string temporary_name(std::string_view name, std::string_view id);

/// A second id that nobody else uses, for a process that needs two temporary names at once.
[[nodiscard]] std::string other_id(std::string_view id);

/// Whether a name is that of an unfinished file.
[[nodiscard]] bool is_temporary_name(std::string_view name);
/// Whether it is the one of a file that is to be called `finished`, or another with the same long end.
[[nodiscard]] bool is_temporary_name_for(std::string_view name, std::string_view finished);
/// Whether it is the one of a file whose name is to end in `suffix`, which is not empty.
[[nodiscard]] bool is_temporary_name_with_suffix(std::string_view name, std::string_view suffix);

struct PinnedFile;
/// Whether an unfinished file was last written more than ten minutes ago, far longer than any publication takes, and no
/// process holds its witness. `now`: by the clock of the file's file system.
[[nodiscard]] bool is_abandoned(const PinnedFile& unfinished, WallTime now);

/// Removes an unfinished lock that its maker left behind: a file that can be one, is abandoned, and which no process
/// has locked (flock(2)), as one does that may put it back (`ReplacedFile`). Its name was made for one publication and
/// is never used again. Anything else is left alone. `now`: by the clock of the file's file system. Errors: those of
/// the calls.
[[nodiscard]] Result<void> remove_if_left_behind(const Place& unfinished, WallTime now);

/// A file under a temporary name, which is removed at the end of the scope unless the file has got another name by
/// then. No other process uses such a name, so it is removed without a look.
class TemporaryName {
 public:
  explicit TemporaryName(Place place) : place_(std::move(place)) {}
  ~TemporaryName();
  TemporaryName(const TemporaryName&) = delete;
  TemporaryName& operator=(const TemporaryName&) = delete;

  [[nodiscard]] const Place& place() const noexcept { return place_; }
  /// The file was renamed: there is nothing to remove.
  void forget() noexcept { is_renamed_ = true; }
  [[nodiscard]] bool is_renamed() const noexcept { return is_renamed_; }

 private:
  const Place place_;
  bool is_renamed_{false};
};

}  // namespace sessionlock
