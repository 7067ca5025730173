#pragma once

/// \file
/// Publishing on file systems that know paths, not files.
///
/// Many FUSE file systems do: all that are written for the high-level interface of libfuse, such as sshfs and bindfs.
/// To the kernel, which keeps flock(2) and OFD locks by inode, each name of a file is a file of its own there. A
/// publisher that went on with the file that it opened by its temporary name would share no lock with those that open
/// the lock by its own name: force would not wait for its guarded writes, and its witness would bind nobody. So there a
/// publisher has the record written out before the link, opens the lock by its own name as soon as it has one, compares
/// the content, and goes on with that descriptor. Its witness comes after the record then, which therefore does not
/// declare it.
///
/// A file that is renamed over another stays the file that it is, so a take-over needs none of that, but for the order
/// of record and witness.
///
/// Nothing else in this room knows of this.

#include <optional>
#include <string_view>

#include "protocol/candidate.hpp"
#include "protocol/publication.hpp"

namespace sessionlock {

/// Finds out, once for each file system, whether its locks are per name, by one more link to a candidate that has a
/// temporary name. Errors: those of the calls.
[[nodiscard]] Result<void> try_names_once(const Place& place, const Candidate& candidate, std::string_view id);

/// Completes a candidate, but for its name, in the way that the file system needs. False: its locks turned out to be
/// per name only now, and another candidate is to be made. Errors: those of the calls; `Errc::unsupported_file_system`.
[[nodiscard]] Result<bool> complete_candidate(Candidate& candidate, const Place& place, const Publication& publication);
/// Where locks are per name: takes the witness of a file that has its own name, after the record, which therefore does
/// not declare it. That it is held proves that its owner lives; that it is free proves nothing.
void take_undeclared_witness(const PublishedFile& file, const Place& place, const Publication& publication);

/// Publishes where locks are per name. None: the candidate was swept away before it had its name.
/// Errors: as `publish_file`.
[[nodiscard]] Result<std::optional<PublishAttempt>> publish_by_name(const Place& place, const Publication& publication);

}  // namespace sessionlock
