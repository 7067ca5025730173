#include "sessions/torn_file.hpp"

#include <algorithm>
#include <cerrno>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/core.h>
#include <unistd.h>

#include "system/file_status.hpp"
#include "system/system.hpp"
#include "verdict/failure.hpp"

namespace sessionlock {
namespace {

constexpr std::string_view k_torn_suffix = ".torn";
/// How much of a fragment is in memory at a time: it may be as long as the disk is large.
constexpr std::size_t k_chunk_bytes = std::size_t{64} * 1024;
constexpr mode_t k_owner_bits = S_IRUSR | S_IWUSR;
constexpr mode_t k_all_bits = k_owner_bits | S_IRGRP | S_IWGRP | S_IROTH | S_IWOTH;
constexpr auto k_unchanged = static_cast<uid_t>(-1);

/// What is in the way, and what to do about it.
std::string in_the_way(std::string_view what) {
  return fmt::format("{}; incomplete lines of the session go there: move it away, then append again", what);
}

tl::unexpected<Error> refused(Error error) {
  if (error.code == std::errc::too_many_symbolic_link_levels) {
    error.detail = in_the_way("a symbolic link has that name");
  } else if (error.code == std::errc::is_a_directory) {
    error.detail = in_the_way("a directory has that name");
  } else if (error.code == Errc::invalid_argument || error.code == std::errc::no_such_device_or_address) {
    error.detail = in_the_way("it is no regular file");  // ENXIO: a socket
  } else if (error.code == std::errc::permission_denied) {
    error.detail = in_the_way("this user may not read and write it, or not make it");
  }
  return tl::unexpected(std::move(error));
}

/// Who may read and write an open file now; errors are those of fstat(2). Whether it has an access control list does
/// not change meanwhile; where that cannot be asked for, it counts as having one.
Result<FileRights> access_of(const AppendedFile& file, bool has_acl) {
  struct stat status {};
  if (const auto found = sys::fstat(file.fd.get(), status); !found.ok()) {
    return failure(found.code(), "fstat", file.path);
  }
  return FileRights{status.st_uid, status.st_gid, status.st_mode & k_all_bits, has_acl};
}

bool has_acl(const AppendedFile& file) {
  const auto found = sys::has_access_list(file.fd.get());
  return !found.ok() || found.value != 0;
}

/// Gives a file the session's owner, where that is allowed, or else its group.
void give_away(const AppendedFile& file, const FileRights& session) {
  if (!sys::fchown(file.fd.get(), session.owner, session.group).ok()) {
    (void)sys::fchown(file.fd.get(), k_unchanged, session.group);
  }
}

/// Makes a file as open as the session, and no more, as far as this process may. Returns why not, or 0.
/// 1. A file that is open to more users is closed to all but its owner. 2. It gets the session's group. 3. It is opened
/// to that. In another order that group could read it in between as the former group did.
int align(const AppendedFile& file, const FileRights& session, FileRights own) {
  if ((own.mode & ~(mode_beside(session, own) | k_owner_bits)) != 0) {
    if (const auto closed = sys::fchmod(file.fd.get(), own.mode & k_owner_bits); !closed.ok()) {
      return closed.error;
    }
    own.mode &= k_owner_bits;
  }
  if (own.group != session.group || own.owner != session.owner) {
    give_away(file, session);
    if (auto now = access_of(file, own.has_acl)) {
      own = *now;
    }
  }
  const mode_t wanted = mode_beside(session, own);
  return own.mode == wanted ? 0 : sys::fchmod(file.fd.get(), wanted).error;
}

}  // namespace

mode_t mode_beside(const FileRights& session, const FileRights& file) {
  const mode_t mode = session.mode & k_all_bits;
  if (session.has_acl || file.has_acl) {
    return mode & k_owner_bits;
  }
  if (session.group == file.group) {
    return mode;
  }
  const mode_t both = (mode >> 3U) & mode & (S_IROTH | S_IWOTH);
  return (mode & k_owner_bits) | (both << 3U) | both;
}

bool may_own_beside(const FileRights& session, const FileRights& file, uid_t self) {
  const bool group_reads = file.group == session.group && (session.mode & S_IRGRP) != 0 && !session.has_acl;
  return file.owner == session.owner || file.owner == self || file.owner == 0 || group_reads ||
         (session.mode & S_IROTH) != 0;
}

Result<TornFile> TornFile::open(const Place& session, const AppendedFile& session_file) {
  struct stat status {};
  auto opened = AppendedFile::open(*session.directory, session.name + std::string(k_torn_suffix), k_owner_bits, status);
  if (!opened) {
    return refused(std::move(opened).error());
  }
  if (status.st_nlink != 1) {
    return failure(Errc::invalid_argument, "open", opened->path,
                   in_the_way(fmt::format("it has {} names (hard links)", status.st_nlink)));
  }
  auto wanted = access_of(session_file, has_acl(session_file));
  if (!wanted) {
    return tl::unexpected(std::move(wanted).error());
  }
  auto own = access_of(*opened, has_acl(*opened));
  if (!own) {
    return tl::unexpected(std::move(own).error());
  }
  // Before anything is changed: a stranger who made it can go on reading it, whatever its mode is then.
  if (!may_own_beside(*wanted, *own, ::geteuid())) {
    return failure({EPERM, std::system_category()}, "open", opened->path,
                   in_the_way("it is of a user who may not read the session"));
  }
  const int error = align(*opened, *wanted, *own);
  auto aligned = access_of(*opened, own->has_acl);
  if (!aligned) {
    return tl::unexpected(std::move(aligned).error());
  }
  if ((aligned->mode & ~(mode_beside(*wanted, *aligned) | k_owner_bits)) != 0) {
    return failure({error != 0 ? error : EPERM, std::system_category()}, "fchmod", opened->path,
                   in_the_way("more users may read or write it than the session"));
  }
  return TornFile(std::move(*opened), size_of(status));
}

Result<void> TornFile::append(std::string_view bytes) {
  if (bytes.empty()) {
    return {};
  }
  auto done = file_.append(bytes, size_ + added_);
  added_ += done ? bytes.size() : 0;
  return done;
}

Result<void> TornFile::copy(const AppendedFile& session, std::uint64_t start, std::uint64_t end) {
  auto inside_line = file_.ends_inside_line(size_);  // a repair that was killed while it copied
  if (!inside_line) {
    return tl::unexpected(std::move(inside_line).error());
  }
  std::string chunk = *inside_line ? "\n" : "";
  copy_start_ = size_ + chunk.size();
  while (true) {
    if (const std::uint64_t data = session.next_data(start, end); data > start) {
      if (auto added = append(chunk); !added) {
        return added;
      }
      if (auto made = file_.truncate(size_ + added_ + (data - start)); !made) {
        return made;
      }
      chunk.clear();
      added_ += data - start;
      start = data;
    }
    const auto length = static_cast<std::size_t>(std::min<std::uint64_t>(end - start, k_chunk_bytes));
    const std::size_t before = chunk.size();
    chunk.resize(before + length);
    if (auto got = session.read(start, chunk.data() + before, length); !got) {
      return got;
    }
    start += length;
    if (start == end) {
      return append(chunk + '\n');
    }
    if (auto added = append(chunk); !added) {
      return added;
    }
    chunk.clear();
  }
}

Result<void> TornFile::take(const AppendedFile& session, std::uint64_t start, std::uint64_t end) {
  auto done = copy(session, start, end);
  if (done) {
    done = file_.sync();
  }
  if (!done) {
    give_back();
  }
  return done;
}

Result<bool> TornFile::has_taken(const AppendedFile& session, std::uint64_t start, std::uint64_t end) const {
  return session.equals(start, end, file_, copy_start_);
}

void TornFile::give_back() {
  (void)file_.cut_back(size_, added_);
  added_ = 0;
}

}  // namespace sessionlock
