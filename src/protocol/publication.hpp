#pragma once

/// \file
/// The first half of the protocol on disk (docs/protocol.md): how a file comes by its name. It waits
/// for nobody and knows no threads.
///
/// INVARIANT 2: a lock path only ever comes into being complete, by an exclusive link or rename.

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <sessionlock/error.hpp>

#include "protocol/lock_file.hpp"
#include "protocol/permissions.hpp"
#include "protocol/replaced_file.hpp"

namespace sessionlock {

/// A file as it is to be published.
struct Publication {
  /// With which it is made, less the umask.
  mode_t mode{};
  /// 32 hexadecimal digits that nobody else uses, for the temporary name where one is needed. Lifetime: the caller's.
  std::string_view id{};
  /// Take the witness before the content is written, where the file system can carry one.
  bool with_witness{false};
  /// Makes the whole content; is told on which file the witness was taken, or null.
  std::function<std::string(const FileIdentity* witness)> content{};
  /// What it is given before others can find it; none: it stays as it was made.
  std::optional<LockPermissions> permissions{};
};
/// A file that this process made. The descriptor carries the witness; closing it gives that up.
struct PublishedFile {
  sys::Fd fd;
  FileIdentity file;
  bool has_witness{false};
  /// What a take-over replaced by this file, until it is discarded; null: nothing was. Goes before the descriptor.
  std::unique_ptr<ReplacedFile> replaced{};
};
/// What became of an attempt to publish.
enum class PublishOutcome {
  published,
  contended,      ///< The name is taken.
  directory_gone  ///< The directory was removed meanwhile: locate it again.
};
struct PublishAttempt {
  PublishOutcome outcome{};
  /// Where published.
  std::optional<PublishedFile> file{};
  /// The file system's own clock, from the file just made; none where the directory is gone.
  std::optional<WallTime> file_system_now{};
};
/// Makes a complete file and gives it its name, or finds that the name is taken. Whatever fails leaves nothing behind.
/// Errors: `Errc::unsupported_file_system`; otherwise the failing call's own.
[[nodiscard]] Result<PublishAttempt> publish_file(const Place& place, const Publication& publication);

/// Takes back what was published, unless it is not under its name any more or another process has it: for a caller that
/// has no memory to go on. Takes none.
void unpublish(const PublishedFile& file, const Place& place) noexcept;

/// What a record says of a witness. Where other kernels may use the file system it says nothing: to them the witness
/// may look free, since they do not see this kernel's locks.
///   1. A, a virtual machine, publishes in a directory of its host; an overlay shows it with some device and inode.
///   2. B, another one, sees the same file with the same numbers, and the witness free. 3. B must not take A for dead.
[[nodiscard]] std::optional<std::string> declare_witness(const FileIdentity& file, const FileSystemTraits& traits);

/// A lock file as it is to be published: the witness is taken where the file system can carry one, and declared in the
/// record where the file system is known to belong to this kernel. Lifetime: refers to the place and the record.
[[nodiscard]] Publication lock_publication(const Place& place, LockRecord& record, const LockPermissions& permissions);
/// Publishes a lock file. Errors: as `publish_file`.
[[nodiscard]] Result<PublishAttempt> publish(const Place& place, LockRecord& record,
                                             const LockPermissions& permissions);

}  // namespace sessionlock
