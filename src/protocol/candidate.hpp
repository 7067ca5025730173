#pragma once

/// \file
/// A file that is to be published, from its creation until it has its name.

#include <optional>
#include <string>

#include "protocol/publication.hpp"
#include "protocol/temporary_name.hpp"

namespace sessionlock {

/// How many candidates are made: a sweep that keeps removing their temporary names is not going to let one through.
inline constexpr int k_candidates_max = 8;

/// A file without a name, or under a temporary one, which goes when this goes. The steps are taken in this order.
/// Errors of each: those of the calls; `Errc::unsupported_file_system`.
class Candidate {
 public:
  Candidate(const Place& place, const Publication& publication) : place_(place), publication_(publication) {}
  Candidate(const Candidate&) = delete;
  Candidate& operator=(const Candidate&) = delete;

  /// Makes the file, nameless where the file system allows that, and gives it its permissions.
  [[nodiscard]] Result<void> create();
  /// Finds out, once for each file system, what its locks can do.
  [[nodiscard]] Result<void> try_locks_once();
  /// Takes the witness, if there is to be one and the file system can carry one. It comes before the record that
  /// declares it.
  [[nodiscard]] Result<void> take_witness();
  [[nodiscard]] Result<void> write();
  /// An errno: 0 named, EEXIST contended, others as they are.
  [[nodiscard]] int give_name();
  /// Gives the file a temporary name, if it has none: from there it can be renamed over another. An errno.
  [[nodiscard]] int name_temporarily();

  /// The time by this file system when the file was made.
  [[nodiscard]] WallTime made() const { return made_; }
  /// The temporary name; null: it has none.
  [[nodiscard]] const TemporaryName* temporary() const { return temporary_ ? &*temporary_ : nullptr; }
  [[nodiscard]] TemporaryName* temporary() { return temporary_ ? &*temporary_ : nullptr; }
  /// The file was made and cannot be found: a sweep took it for left over, or nothing leads to a nameless file here.
  [[nodiscard]] bool is_lost(const std::error_code& why) const {
    return fd_ && !may_be_nameless() && why == std::errc::no_such_file_or_directory;
  }
  [[nodiscard]] const sys::Fd& fd() const { return fd_; }
  [[nodiscard]] const FileIdentity& file() const { return file_; }
  [[nodiscard]] const std::string& content() const { return content_; }
  [[nodiscard]] bool has_its_name() const;
  /// Gives the descriptor up, where its number may be what is wanting.
  void close() { fd_.reset(); }
  /// Goes over to a descriptor that was opened by the lock's own name, where the file has a temporary name beside it
  /// that is about to be removed: an NFS client keeps a name that is removed while it is open, as `.nfs…`, until the
  /// descriptor is closed. Does nothing where that would cost the witness, or where the name has become another's.
  void reopen_by_its_name();
  /// The file that was published.
  [[nodiscard]] PublishedFile take() { return {std::move(fd_), file_, has_witness_}; }

 private:
  [[nodiscard]] int directory() const { return place_.directory->fd.get(); }
  [[nodiscard]] FileSystemTraits& traits() const { return *place_.directory->traits; }
  [[nodiscard]] bool may_be_nameless() const {
    const Naming naming = traits().naming.load();
    return naming != Naming::temporary_link && naming != Naming::temporary_rename;
  }
  [[nodiscard]] int link_temporary();
  [[nodiscard]] int link_nameless_to(const std::string& name);

  const Place& place_;
  const Publication& publication_;
  sys::Fd fd_;
  std::optional<TemporaryName> temporary_{};
  FileIdentity file_;
  WallTime made_{};
  std::string content_;
  bool has_witness_{false};
};

/// Checks, once for each file system, that an open file has the inode number of its name: nothing could be verified
/// otherwise. Where it has not, the lock that was just published is taken back.
/// Errors: `Errc::unsupported_file_system`; those of the calls.
[[nodiscard]] Result<void> check_inode_once(const Place& place, const PublishedFile& published,
                                            const std::string& content);

/// What it means that a candidate could not be made, or could not be given its name, for an errno. None: it was swept
/// away, or the file system needs another kind, and another candidate is to be made.
[[nodiscard]] Result<std::optional<PublishAttempt>> judge_preparing_failure(const Place& place,
                                                                            const Candidate& candidate, Error error);
[[nodiscard]] Result<std::optional<PublishAttempt>> judge_naming_failure(const Place& place, int error);

[[nodiscard]] tl::unexpected<Error> removed_again_and_again(const Place& place);
[[nodiscard]] tl::unexpected<Error> unsupported_file_system(const Place& place, std::string detail);

}  // namespace sessionlock
