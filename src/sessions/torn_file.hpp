#pragma once

/// \file
/// `<session>.torn`, which takes what is moved out of a session: incomplete lines, one below the other.

#include <cstdint>
#include <string_view>
#include <utility>

#include <sys/stat.h>
#include <sys/types.h>

#include <sessionlock/error.hpp>

#include "protocol/directory.hpp"
#include "sessions/appended_file.hpp"

namespace sessionlock {

/// Who may read and write a file.
struct FileRights {
  uid_t owner{};
  gid_t group{};
  mode_t mode{};
  /// It has an access control list, so that the mode's bits for the group say something else.
  bool has_acl{};

  friend bool operator==(const FileRights&, const FileRights&) = default;
};
/// The mode that a file of this group may have beside a session, so that nobody may read or write it who may not read
/// or write the session. Where the groups differ, the members of each are others to the other file.
[[nodiscard]] mode_t mode_beside(const FileRights& session, const FileRights& file);
/// Whether the owner of a file beside a session may read the session, as far as can be told, or is this user or root.
[[nodiscard]] bool may_own_beside(const FileRights& session, const FileRights& file, uid_t self);

class TornFile {
 public:
  /// Opens it, or creates it, with the session's permissions, its group, and, where this process may give files away,
  /// its owner. At no moment may anybody read it who may not read the session.
  /// Errors: those of opening it; `Errc::invalid_argument` for what is no regular file or has another name as well;
  /// EPERM for a file of a user who may not read the session; EPERM, or what fchmod(2) said, for one that more users
  /// may read or write. Each says what to do.
  [[nodiscard]] static Result<TornFile> open(const Place& session, const AppendedFile& session_file);

  /// Takes a copy of a part of the session as a line of its own, and returns when it is on stable storage. Holes stay
  /// holes. On failure nothing of it stays.
  [[nodiscard]] Result<void> take(const AppendedFile& session, std::uint64_t start, std::uint64_t end);
  /// Whether that part of the session is still what was taken.
  [[nodiscard]] Result<bool> has_taken(const AppendedFile& session, std::uint64_t start, std::uint64_t end) const;
  /// Removes what was taken.
  void give_back();

 private:
  TornFile(AppendedFile file, std::uint64_t size) : file_(std::move(file)), size_(size) {}
  [[nodiscard]] Result<void> copy(const AppendedFile& session, std::uint64_t start, std::uint64_t end);
  [[nodiscard]] Result<void> append(std::string_view bytes);

  AppendedFile file_;
  /// Before it took anything.
  std::uint64_t size_;
  /// Added since.
  std::uint64_t added_{0};
  /// Where the copy begins.
  std::uint64_t copy_start_{0};
};

}  // namespace sessionlock
