#include "protocol/lock_file.hpp"
#include "protocol/publication.hpp"

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lock_tools.hpp"
#include "process.hpp"
#include "protocol/inspector.hpp"
#include "script.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;

namespace {

constexpr mode_t k_mode = 0600;

/// What a file system can do is remembered for a process, so what pretends another one runs in a process of its own.
void in_fresh_process(const std::function<void()>& body) {
  CHECK(ChildProcess::run([&body](Channel&) {
          body();
          return 0;
        })
            .wait()
            .exited_with(0));
}

bool is(const sys::CallInfo& info, sys::Call call) {
  return info.call == call;
}
/// The attempt to make a nameless file.
bool makes_nameless(const sys::CallInfo& info) {
  return is(info, sys::Call::openat) && std::string_view(info.path) == ".";
}

int no_nameless_files(const sys::CallInfo& info) {
  return makes_nameless(info) ? EOPNOTSUPP : 0;
}
int no_hard_links(const sys::CallInfo& info) {
  return is(info, sys::Call::linkat) ? EPERM : no_nameless_files(info);
}

/// Pretended file systems, and how a lock gets its name there.
struct Pretence {
  const char* name;
  Answer answer;
  Naming naming;
};
std::vector<Pretence> pretences() {
  return {
      {"everything", [](const sys::CallInfo&) { return 0; }, Naming::empty_path},
      {"no AT_EMPTY_PATH",
       [first = true](const sys::CallInfo& info) mutable {
         return is(info, sys::Call::linkat) && std::exchange(first, false) ? ENOENT : 0;
       },
       Naming::descriptor_link},
      {"no AT_EMPTY_PATH, said otherwise",
       [first = true](const sys::CallInfo& info) mutable {
         return is(info, sys::Call::linkat) && std::exchange(first, false) ? EACCES : 0;
       },
       Naming::descriptor_link},
      {"no O_TMPFILE", no_nameless_files, Naming::temporary_link},
      {"no O_TMPFILE, as old kernels say it",
       [](const sys::CallInfo& info) { return makes_nameless(info) ? EISDIR : 0; }, Naming::temporary_link},
      {"no /proc and no capability",
       [left = 2](const sys::CallInfo& info) mutable { return is(info, sys::Call::linkat) && left-- > 0 ? ENOENT : 0; },
       Naming::temporary_link},
      {"no links of nameless files",
       [left = 2](const sys::CallInfo& info) mutable { return is(info, sys::Call::linkat) && left-- > 0 ? EPERM : 0; },
       Naming::temporary_link},
      {"no /proc at all",
       [](const sys::CallInfo& info) {
         return info.path != nullptr && std::string_view(info.path).starts_with("/proc/") ? ENOENT : 0;
       },
       Naming::temporary_link},
      {"no hard links", no_hard_links, Naming::temporary_rename},
      {"no hard links, said otherwise",
       [](const sys::CallInfo& info) { return is(info, sys::Call::linkat) ? EOPNOTSUPP : no_nameless_files(info); },
       Naming::temporary_rename},
  };
}

Result<PublishAttempt> publish_own(const Place& place) {
  const LockRecord record = own_record();
  return publish(place, view_of(record), k_mode);
}

struct PublishedLock : PublishedFile {
  LockRecord record;
};

PublishedLock published(const Place& place, mode_t mode = k_mode) {
  LockRecord record = own_record();
  auto attempt = publish(place, view_of(record), mode);
  if (!attempt) {
    throw ProcessFailure(attempt.error().message());
  }
  if (attempt->outcome != PublishOutcome::published) {
    throw ProcessFailure("not published");
  }
  if (attempt->file->has_witness) {
    record.witness = format_witness(attempt->file->file);
  }
  return {std::move(*attempt->file), std::move(record)};
}

PinnedLock pinned_at(const Place& place) {
  auto pinned = pin(place);
  if (!pinned || !pinned->has_value()) {
    throw ProcessFailure(pinned ? "nothing to pin" : pinned.error().message());
  }
  return std::move(**pinned);
}

/// Another open file description of the same file.
class SecondDescription {
 public:
  explicit SecondDescription(const fs::path& path) : fd_(::open(path.c_str(), O_RDWR | O_CLOEXEC)) {}
  ~SecondDescription() { ::close(fd_); }
  SecondDescription(const SecondDescription&) = delete;
  SecondDescription& operator=(const SecondDescription&) = delete;
  [[nodiscard]] bool can_flock() const {
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      return false;
    }
    ::flock(fd_, LOCK_UN);
    return true;
  }
  void flock() const { REQUIRE(::flock(fd_, LOCK_EX | LOCK_NB) == 0); }
  [[nodiscard]] int fd() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

// --- publish ---------------------------------------------------------------------------------------------------------

TEST_CASE("a lock appears complete, with its witness, on every kind of file system") {
  // Protects: `Candidate::write` and `take_witness` before `give_name`, in `publish_one` (INVARIANT 2; traps 4 and 5).
  for (const auto& pretence : pretences()) {
    CAPTURE(pretence.name);
    in_fresh_process([&] {
      const TemporaryDirectory directory;
      const Place place = place_in(directory.path(), "s.lock");
      std::string seen;
      bool witness_was_held = true;
      const auto look = [&] {
        if (const std::string text = read_text(directory / "s.lock"); fs::exists(directory / "s.lock")) {
          witness_was_held = witness_was_held && query_witness(pinned_at(place)).query == WitnessQuery::write_locked;
          REQUIRE_IN_CHILD(!text.empty() && (seen.empty() || seen == text));
          seen = text;
        }
      };
      auto lock = [&] {
        const Script script(outermost([&](const sys::CallInfo& info) {
          look();
          return pretence.answer(info);
        }));
        return published(place);
      }();
      look();
      REQUIRE_IN_CHILD(witness_was_held);
      REQUIRE_IN_CHILD(place.directory->traits->naming.load() == pretence.naming);
      REQUIRE_IN_CHILD(seen == format_lock_record(lock.record));
      REQUIRE_IN_CHILD(names_in(directory.path()) == std::vector<std::string>{"s.lock"});
      REQUIRE_IN_CHILD(lock.file.inode == inode_of(directory / "s.lock"));
      // What was found out is used again.
      int tries = 0;
      const Script script([&](const sys::CallInfo& info) {
        tries += is(info, sys::Call::flock) ? 1 : 0;
        return pretence.answer(info);
      });
      REQUIRE_IN_CHILD(published(place_in(directory.path(), "t.lock")).fd);
      REQUIRE_IN_CHILD(tries == 0);
      REQUIRE_IN_CHILD(place.directory->traits->naming.load() == pretence.naming);
    });
  }
}

TEST_CASE("the name is taken exclusively on every kind of file system") {
  for (const auto& pretence : pretences()) {
    CAPTURE(pretence.name);
    in_fresh_process([&] {
      const TemporaryDirectory directory;
      const Place place = place_in(directory.path(), "s.lock");
      plant(directory / "s.lock", "other");
      const auto inode = inode_of(directory / "s.lock");
      const Script script(pretence.answer);
      const auto attempt = publish_own(place);
      REQUIRE_IN_CHILD(attempt && attempt->outcome == PublishOutcome::contended && !attempt->file);
      REQUIRE_IN_CHILD(attempt->file_system_now.has_value());
      REQUIRE_IN_CHILD(inode_of(directory / "s.lock") == inode && read_text(directory / "s.lock") == "other");
      REQUIRE_IN_CHILD(names_in(directory.path()) == std::vector<std::string>{"s.lock"});
      const FileSystemTraits& traits = *place.directory->traits;
      REQUIRE_IN_CHILD(traits.naming.load() == pretence.naming);
      // Protects: that the names are tried as soon as there are some, whatever was tried before.
      const bool is_named = pretence.naming == Naming::temporary_link || pretence.naming == Naming::temporary_rename;
      REQUIRE_IN_CHILD(traits.names_tried.load() == is_named && !traits.names_apart.load());
    });
  }
}

TEST_CASE("the mode is the one asked for, less the umask") {
  for (const auto& answer : {Answer{[](const sys::CallInfo&) { return 0; }}, Answer{no_nameless_files}}) {
    in_fresh_process([&] {
      const TemporaryDirectory directory;
      const Script script(answer);
      ::umask(027);
      const auto a = published(place_in(directory.path(), "a.lock"), 0666);
      const auto b = published(place_in(directory.path(), "b.lock"), 0600);
      struct stat status {};
      REQUIRE_IN_CHILD(::fstat(a.fd.get(), &status) == 0 && (status.st_mode & 07777) == 0640);
      REQUIRE_IN_CHILD(::fstat(b.fd.get(), &status) == 0 && (status.st_mode & 07777) == 0600);
    });
  }
}

TEST_CASE("the record names the inode on which the witness is held, and the witness goes with the descriptor") {
  const TemporaryDirectory directory;
  const Place place = place_in(directory.path(), "s.lock");
  auto lock = published(place);
  struct stat status {};
  REQUIRE(::lstat((directory / "s.lock").c_str(), &status) == 0);
  CHECK(lock.record.witness == "ofd:" + std::to_string(status.st_dev) + ":" + std::to_string(status.st_ino));
  const PinnedLock pinned = pinned_at(place);
  CHECK(pinned.record == lock.record);
  CHECK(query_witness(pinned).query == WitnessQuery::write_locked);
  lock.fd.reset();
  CHECK(query_witness(pinned).query == WitnessQuery::not_locked);
}

TEST_CASE("only a write lock on the witness byte is a witness") {
  const TemporaryDirectory directory;
  plant(directory / "s.lock", "{}");
  const PinnedLock pinned = pinned_at(place_in(directory.path(), "s.lock"));
  const SecondDescription other(directory / "s.lock");
  const auto lock_as = [&other](short type, std::int64_t offset) {
    struct flock range {};
    range.l_type = type;
    range.l_start = offset;
    range.l_len = 1;
    REQUIRE(::fcntl(other.fd(), F_OFD_SETLK, &range) == 0);
  };
  lock_as(F_RDLCK, k_witness_offset);
  CHECK(query_witness(pinned).query == WitnessQuery::not_locked);
  lock_as(F_WRLCK, k_witness_offset + 1);
  CHECK(query_witness(pinned).query == WitnessQuery::not_locked);
  lock_as(F_WRLCK, k_witness_offset);
  CHECK(query_witness(pinned).query == WitnessQuery::write_locked);
}

TEST_CASE("a lock's descriptor is never standard input, output or error, and ends with an exec") {
  in_fresh_process([] {
    const TemporaryDirectory directory;
    const Place place = place_in(directory.path(), "s.lock");
    const int saved = ::fcntl(2, F_DUPFD_CLOEXEC, 10);
    ::close(0);
    ::close(1);
    ::close(2);
    const auto lock = published(place);
    const auto pinned = pinned_at(place);
    ::dup2(saved, 2);
    REQUIRE_IN_CHILD(lock.fd.get() >= 3 && pinned.fd.get() >= 3);
    REQUIRE_IN_CHILD((::fcntl(lock.fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
    REQUIRE_IN_CHILD((::fcntl(pinned.fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
    REQUIRE_IN_CHILD((::fcntl(place.directory->fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
  });
}

TEST_CASE("without nameless files, hard links and exclusive rename a file system is refused") {
  for (const int error : {EINVAL, ENOSYS, EOPNOTSUPP}) {
    in_fresh_process([error] {
      const TemporaryDirectory directory;
      const Script script(
          [error](const sys::CallInfo& info) { return is(info, sys::Call::renameat2) ? error : no_hard_links(info); });
      const auto attempt = publish_own(place_in(directory.path(), "s.lock"));
      REQUIRE_IN_CHILD(!attempt && attempt.error().code == Errc::unsupported_file_system);
      REQUIRE_IN_CHILD(names_in(directory.path()).empty());
    });
  }
}

TEST_CASE("without flock a file system is refused before anything can be seen") {
  for (const int error : {EOPNOTSUPP, ENOLCK, ENOSYS, EINVAL}) {
    for (const bool nameless : {true, false}) {
      in_fresh_process([=] {
        const TemporaryDirectory directory;
        const Script script([=](const sys::CallInfo& info) {
          REQUIRE_IN_CHILD(!is(info, sys::Call::linkat) && !is(info, sys::Call::renameat2));
          return is(info, sys::Call::flock) ? error : nameless ? 0 : no_nameless_files(info);
        });
        const auto attempt = publish_own(place_in(directory.path(), "s.lock"));
        REQUIRE_IN_CHILD(!attempt && attempt.error().code == Errc::unsupported_file_system);
        REQUIRE_IN_CHILD(attempt.error().message().find("flock") != std::string::npos);
        REQUIRE_IN_CHILD(names_in(directory.path()).empty());
      });
    }
  }
}

TEST_CASE("where flock collides with record locks there is no witness and no mark") {
  in_fresh_process([] {
    const TemporaryDirectory directory;
    const Place place = place_in(directory.path(), "s.lock");
    auto lock = [&] {
      bool collided = false;
      const Script script([&](const sys::CallInfo& info) {
        return is(info, sys::Call::flock) && !std::exchange(collided, true) ? EWOULDBLOCK : 0;
      });
      return published(place);
    }();
    REQUIRE_IN_CHILD(!lock.record.witness && !pinned_at(place).record.witness);
    REQUIRE_IN_CHILD(query_witness(pinned_at(place)).query == WitnessQuery::not_locked);
    const auto pinned = pinned_at(place);
    mark_waiting(pinned, *place.directory->traits);
    REQUIRE_IN_CHILD(!has_waiting_mark(lock.fd.get(), *place.directory->traits));
    REQUIRE_IN_CHILD(!published(place_in(directory.path(), "t.lock")).record.witness);
  });
}

TEST_CASE("a flock that keeps nobody out is not taken for a lock") {
  // Protects: the second `flock` of `Candidate::try_locks`. Before it the first is let go, as if it had not been there.
  in_fresh_process([] {
    const TemporaryDirectory directory;
    int flocks = 0;
    const Script script([&](const sys::CallInfo& info) {
      if (is(info, sys::Call::flock) && ++flocks == 2) {
        constexpr int k_numbers = 64;
        for (int fd = 0; fd < k_numbers; ++fd) {
          ::flock(fd, LOCK_UN);
        }
      }
      return 0;
    });
    const auto attempt = publish_own(place_in(directory.path(), "s.lock"));
    REQUIRE_IN_CHILD(!attempt && attempt.error().code == Errc::unsupported_file_system);
    REQUIRE_IN_CHILD(names_in(directory.path()).empty());
  });
}

TEST_CASE("where record locks do not exist there is no witness") {
  for (const int error : {EINVAL, ENOSYS, EOPNOTSUPP}) {
    in_fresh_process([error] {
      const TemporaryDirectory directory;
      const Script script([error](const sys::CallInfo& info) { return is(info, sys::Call::ofd_setlk) ? error : 0; });
      REQUIRE_IN_CHILD(!published(place_in(directory.path(), "s.lock")).record.witness);
    });
  }
}

TEST_CASE("a shortage of record locks is an error on a local file system, and no witness on another") {
  for (const bool local : {true, false}) {
    in_fresh_process([local] {
      const TemporaryDirectory directory;
      const Place place = place_in(directory.path(), "s.lock");
      place.directory->traits->local = local;
      const Script script([](const sys::CallInfo& info) { return is(info, sys::Call::ofd_setlk) ? ENOLCK : 0; });
      const LockRecord record = own_record();
      const auto attempt = publish(place, view_of(record), k_mode);
      REQUIRE_IN_CHILD(attempt.has_value() == !local);
      if (!local) {
        REQUIRE_IN_CHILD(!attempt->file->has_witness);
        REQUIRE_IN_CHILD(read_text(directory / "s.lock") == format_lock_record(record));
      } else {
        REQUIRE_IN_CHILD(attempt.error().code == std::error_code(ENOLCK, std::system_category()));
        REQUIRE_IN_CHILD(names_in(directory.path()).empty());
      }
    });
  }
}

TEST_CASE("where an open file's inode is not that of its name, the file system is refused and nothing is left") {
  in_fresh_process([] {
    const TemporaryDirectory directory;
    const Script script(outermost([&](const sys::CallInfo& info) {
      if (is_call_on(info, sys::Call::fstatat, "s.lock")) {  // now the name has another inode with the same content
        fs::copy_file(directory / "s.lock", directory / "copy");
        fs::rename(directory / "copy", directory / "s.lock");
      }
      return 0;
    }));
    const auto attempt = publish_own(place_in(directory.path(), "s.lock"));
    REQUIRE_IN_CHILD(!attempt && attempt.error().code == Errc::unsupported_file_system);
    REQUIRE_IN_CHILD(names_in(directory.path()).empty());
  });
}

TEST_CASE("a lock that a cleaner removes and another replaces at once is not taken for a bad file system") {
  // Protects: the comparison of lock ids in `Candidate::check_inode_identity`.
  for (const bool replaced : {true, false}) {
    in_fresh_process([replaced] {
      const TemporaryDirectory directory;
      const Place place = place_in(directory.path(), "s.lock");
      const Script script(outermost([&](const sys::CallInfo& info) {
        if (is_call_on(info, sys::Call::fstatat, "s.lock")) {
          fs::remove(directory / "s.lock");
          if (replaced) {
            plant(directory / "s.lock", foreign_record(::getpid()));
          }
        }
        return 0;
      }));
      const auto lock = published(place);
      REQUIRE_IN_CHILD(fs::exists(directory / "s.lock") == replaced);
      REQUIRE_IN_CHILD(names_inode(place.directory->fd.get(), "s.lock", lock.file).answer == Step::Answer::other);
    });
  }
}

TEST_CASE("a failure at any step keeps its own name and leaves nothing behind") {
  using sys::Call;
  const std::vector<std::pair<Call, std::vector<int>>> failures{
      {Call::openat, {ENOSPC, EDQUOT, EROFS, EACCES, EMFILE, ENFILE, EIO}},
      {Call::fstat, {EIO}},
      {Call::ofd_setlk, {EIO, ENOMEM}},
      {Call::flock, {EIO, ENOMEM}},
      {Call::write, {ENOSPC, EDQUOT, EIO, EFBIG}},
      {Call::linkat, {ENOSPC, EDQUOT, EIO, EROFS}},
  };
  for (const bool nameless : {true, false}) {
    for (const auto& failure : failures) {
      const Call call = failure.first;
      for (const int error : failure.second) {
        CAPTURE(sys::to_string(call));
        CAPTURE(error);
        in_fresh_process([=] {
          const TemporaryDirectory directory;
          const Place place = place_in(directory.path(), "s.lock");
          const Script script([=](const sys::CallInfo& info) {
            const int other = nameless ? 0 : no_nameless_files(info);
            return other != 0 ? other : is(info, call) ? error : 0;
          });
          const auto attempt = publish_own(place);
          REQUIRE_IN_CHILD(!attempt && attempt.error().code == std::error_code(error, std::system_category()));
          REQUIRE_IN_CHILD(names_in(directory.path()).empty());
          REQUIRE_IN_CHILD(sys::open_descriptor_count() == 1);  // the directory
        });
      }
    }
  }
}

TEST_CASE("a full, a crowded and a read-only file system leave no lock behind") {
  std::string why_not;
  const auto full = TmpfsMount::mount("size=16k", &why_not);
  const auto crowded = TmpfsMount::mount("nr_inodes=2", &why_not);
  const auto read_only = TmpfsMount::mount("size=16k", &why_not);
  if (!full || !crowded || !read_only) {
    skip_aloud("a tmpfs cannot be mounted: " + why_not);
    return;
  }
  const auto code = [](const TmpfsMount& mount) {
    const auto attempt = publish_own(place_in(mount.path(), "s.lock"));
    REQUIRE(!attempt);
    CHECK(!fs::exists(mount / "s.lock"));
    return attempt.error().code;
  };
  write_text(*full / "filler", std::string(std::size_t{16} * 1024, 'x'));
  CHECK(code(*full) == std::errc::no_space_on_device);
  CHECK(names_in(full->path()).size() == 1);
  write_text(*crowded / "filler", "");
  CHECK(code(*crowded) == std::errc::no_space_on_device);
  REQUIRE(read_only->remount("ro"));
  CHECK(code(*read_only) == std::errc::read_only_file_system);
}

TEST_CASE("short writes make a whole record, and a file system that takes nothing is an error") {
  in_fresh_process([] {
    const TemporaryDirectory directory;
    const Place place = place_in(directory.path(), "s.lock");
    std::size_t most = 7;
    const Script script([&](const sys::CallInfo& info) {
      if (is(info, sys::Call::write)) {
        *info.length = std::min(*info.length, most);
      }
      return 0;
    });
    const auto lock = published(place);
    REQUIRE_IN_CHILD(read_text(directory / "s.lock") == format_lock_record(lock.record));
    most = 0;
    const auto attempt = publish_own(place_in(directory.path(), "t.lock"));
    REQUIRE_IN_CHILD(!attempt && attempt.error().code == std::errc::io_error);
    REQUIRE_IN_CHILD(names_in(directory.path()) == std::vector<std::string>{"s.lock"});
  });
}

TEST_CASE("a link or rename that was made and whose reply was lost counts") {
  // Protects: `Candidate::has_its_name` in `link_temporary`.
  for (const bool by_rename : {false, true}) {
    in_fresh_process([by_rename] {
      const TemporaryDirectory directory;
      const Place place = place_in(directory.path(), "s.lock");
      const auto lose_reply = [&](const sys::CallInfo& info) {
        const fs::path temporary = directory / names_in(directory.path()).front();
        if (by_rename && is(info, sys::Call::renameat2)) {
          fs::rename(temporary, directory / "s.lock");
          return ENOENT;
        }
        if (!by_rename && is_call_on(info, sys::Call::linkat, "s.lock")) {
          fs::create_hard_link(temporary, directory / "s.lock");
          return EEXIST;
        }
        return by_rename ? no_hard_links(info) : no_nameless_files(info);
      };
      const Script script(outermost([&](const sys::CallInfo& info) {
        return names_in(directory.path()).empty() ? no_nameless_files(info) : lose_reply(info);
      }));
      const auto lock = published(place);
      REQUIRE_IN_CHILD(lock.file.inode == inode_of(directory / "s.lock"));
      REQUIRE_IN_CHILD(names_in(directory.path()) == std::vector<std::string>{"s.lock"});
    });
  }
}

TEST_CASE("a candidate that a sweep took away is replaced by another, a bounded number of times") {
  for (const bool by_rename : {false, true}) {
    for (const int times : {1, 3, 1000}) {
      in_fresh_process([=] {
        const TemporaryDirectory directory;
        const auto before = by_rename ? sys::Call::renameat2 : sys::Call::linkat;
        int left = times;
        const Script script(outermost([&](const sys::CallInfo& info) {
          if (is(info, before) && left > 0) {
            for (const auto& name : names_in(directory.path())) {
              REQUIRE_IN_CHILD(is_temporary_name(name));
              fs::remove(directory / name);
            }
            --left;
          }
          return by_rename ? no_hard_links(info) : no_nameless_files(info);
        }));
        const auto attempt = publish_own(place_in(directory.path(), "s.lock"));
        REQUIRE_IN_CHILD(attempt.has_value() == (times < 1000));
        REQUIRE_IN_CHILD(times < 1000 || attempt.error().code == std::errc::no_such_file_or_directory);
        REQUIRE_IN_CHILD(names_in(directory.path()).size() == (times < 1000 ? 1U : 0U));
      });
    }
  }
}

TEST_CASE("a lock is read at one go, and one that grew since its size was asked for to its end") {
  // Protects: `is_whole` in `read_content`, both halves.
  const TemporaryDirectory directory;
  const Place place = place_in(directory.path(), "s.lock");
  const std::string begun = "{\"pid\": 41";
  const std::string rest = "237, \"createdAt\": \"2024-05-06T07:08:09.010Z\", \"label\": \"a long word\"}";
  for (const bool grows : {false, true}) {
    fs::remove(directory / "s.lock");
    plant(directory / "s.lock", grows ? begun : begun + rest);
    int reads = 0;
    const Script script([&](const sys::CallInfo& info) {
      if (is(info, sys::Call::pread) && reads++ == 0 && grows) {
        std::ofstream(directory / "s.lock", std::ios::app) << rest;
      }
      return 0;
    });
    const auto pinned = pin(place);
    REQUIRE((pinned && pinned->has_value()));
    CHECK((*pinned)->record.pid == 41237);
    CHECK((*pinned)->record.label == "a long word");
    CHECK((grows || reads == 1));
  }
}

TEST_CASE("a directory that is removed before the name is given is told from other failures") {
  for (const bool nameless : {true, false}) {
    for (const auto moment : {sys::Call::openat, sys::Call::linkat}) {
      in_fresh_process([=] {
        const TemporaryDirectory directory;
        fs::create_directory(directory / "d");
        const Place place = place_in(directory / "d", "s.lock");
        const Script script(outermost([&](const sys::CallInfo& info) {
          if (is(info, moment)) {
            fs::remove_all(directory / "d");
          }
          return nameless ? 0 : no_nameless_files(info);
        }));
        const auto attempt = publish_own(place);
        REQUIRE_IN_CHILD(attempt && attempt->outcome == PublishOutcome::directory_gone);
        // And it is no reason to think less of the file system.
        const Naming naming = place.directory->traits->naming.load();
        REQUIRE_IN_CHILD(nameless ? naming == Naming::untried : naming == Naming::temporary_link);
      });
    }
  }
}

TEST_CASE("temporary names are recognised exactly") {
  const std::string id = "0123456789abcdef0123456789abcdef";
  CHECK(is_temporary_name(".s.lock." + id + ".tmp"));
  CHECK(!is_temporary_name("s.lock." + id + ".tmp"));
  CHECK(!is_temporary_name("." + id + ".tmp"));
  CHECK(!is_temporary_name(".s.lock." + id.substr(1) + ".tmp"));
  CHECK(!is_temporary_name(".s.lock.0" + id + ".tmp"));
  CHECK(!is_temporary_name(".s.lock." + id + ".tmp2"));
  CHECK(!is_temporary_name(".s.lock.0123456789abcdeg0123456789abcdef.tmp"));
  CHECK(!is_temporary_name(".s.lock"));
  CHECK(!is_temporary_name(""));
}

// --- pin -------------------------------------------------------------------------------------------------------------

TEST_CASE("nothing at a lock path is no lock") {
  const TemporaryDirectory directory;
  const auto pinned = pin(place_in(directory.path(), "s.lock"));
  REQUIRE(pinned.has_value());
  CHECK(!pinned->has_value());
}

TEST_CASE("a hostile node at a lock path is named at once and left in place") {
  const TemporaryDirectory directory;
  const fs::path lock = directory / "s.lock";
  const Place place = place_in(directory.path(), "s.lock");
  std::string expected;
  SUBCASE("symbolic link") {
    write_text(directory / "target", foreign_record(dead_pid()));
    fs::create_symlink("target", lock);
    expected = "symbolic link";
  }
  SUBCASE("dangling symbolic link") {
    fs::create_symlink("nowhere", lock);
    expected = "symbolic link";
  }
  SUBCASE("directory") {
    fs::create_directory(lock);
    expected = "directory";
  }
  SUBCASE("FIFO") {
    REQUIRE(::mkfifo(lock.c_str(), 0600) == 0);
    expected = "FIFO";
  }
  SUBCASE("socket") {
    REQUIRE(::mknod(lock.c_str(), S_IFSOCK | 0600, 0) == 0);
    expected = "socket";
  }
  SUBCASE("device") {
    if (::mknod(lock.c_str(), S_IFCHR | 0600, 0) != 0) {
      skip_aloud("a device node cannot be made");
      return;
    }
    expected = "device";
  }
  SUBCASE("64 MiB") {
    write_text(lock, "{}");
    fs::resize_file(lock, std::uintmax_t{64} * 1024 * 1024);
    expected = "longer";
  }
  SUBCASE("one byte too long") {
    write_text(lock, std::string(k_lock_record_bytes_max + 1, ' '));
    expected = "longer";
  }
  for (const bool local : {true, false}) {
    place.directory->traits->local = local;
    const auto inode = inode_of(lock);
    const auto pinned = pin(place);
    REQUIRE(!pinned);
    CHECK(pinned.error().code == Errc::not_a_lock_file);
    CHECK(pinned.error().message().find(expected) != std::string::npos);
    CHECK(pinned.error().message().find(lock.string()) != std::string::npos);
    CHECK(inode_of(lock) == inode);
  }
  place.directory->traits->local = true;
}

TEST_CASE("the longest record is read whole") {
  const TemporaryDirectory directory;
  std::string text = R"({"pid": 7)";
  text += std::string(k_lock_record_bytes_max - text.size() - 1, ' ') + "}";
  REQUIRE(text.size() == k_lock_record_bytes_max);
  plant(directory / "s.lock", text);
  CHECK(pinned_at(place_in(directory.path(), "s.lock")).record.pid == 7);
}

TEST_CASE("a record that is read in pieces, or grows meanwhile, is read whole") {
  const TemporaryDirectory directory;
  const std::string text = foreign_record(7, "8");
  plant(directory / "s.lock", text.substr(0, 5));
  const Place place = place_in(directory.path(), "s.lock");
  bool grown = false;
  const Script script([&](const sys::CallInfo& info) {
    if (is(info, sys::Call::pread)) {
      if (!std::exchange(grown, true)) {
        write_text(directory / "s.lock", text);
      }
      *info.length = std::min<std::size_t>(*info.length, 3);
    }
    return 0;
  });
  const auto pinned = pinned_at(place);
  CHECK(pinned.record == parse_lock_record(text));
  CHECK(pinned.record.starttime == 8);
}

TEST_CASE("a lock file that may not be read is unreadable, not absent and not empty") {
  if (!can_become_second_user()) {
    skip_aloud("becoming another user needs root");
    return;
  }
  const TemporaryDirectory directory;
  fs::permissions(directory.path(), fs::perms::all);
  plant(directory / "s.lock", foreign_record(dead_pid()));
  fs::permissions(directory / "s.lock", fs::perms::none);
  CHECK(ChildProcess::run([&](Channel&) {
          fs::current_path(directory.path());  // a path from the root may lead through what is root's alone
          become_second_user();
          const auto pinned = pinned_at(place_in(".", "s.lock"));
          REQUIRE_IN_CHILD(pinned.unreadable == std::errc::permission_denied && !pinned.fd && !pinned.record.pid);
          REQUIRE_IN_CHILD(query_witness(pinned).query == WitnessQuery::not_asked);
          return 0;
        })
            .wait()
            .exited_with(0));
}

TEST_CASE("trouble in reading is unreadable, and our own shortage an error") {
  // Protects: `is_own_shortage` and `PinnedLock::unreadable` (trap 13).
  const TemporaryDirectory directory;
  plant(directory / "s.lock", foreign_record(dead_pid()));
  const Place place = place_in(directory.path(), "s.lock");
  for (const auto call : {sys::Call::openat, sys::Call::fstat, sys::Call::pread}) {
    CAPTURE(sys::to_string(call));
    for (const int error : {EIO, ESTALE, EACCES, EPERM}) {
      const Script script([=](const sys::CallInfo& info) { return is(info, call) ? error : 0; });
      const auto pinned = pin(place);
      REQUIRE(pinned.has_value());
      REQUIRE(pinned->has_value());
      CHECK((*pinned)->unreadable == std::error_code(error, std::system_category()));
    }
    for (const int error : {EMFILE, ENFILE, ENOMEM}) {
      const Script script([=](const sys::CallInfo& info) { return is(info, call) ? error : 0; });
      const auto pinned = pin(place);
      REQUIRE(!pinned);
      CHECK(pinned.error().code == std::error_code(error, std::system_category()));
    }
  }
}

TEST_CASE("a lock that vanishes while it is opened is no lock") {
  const TemporaryDirectory directory;
  plant(directory / "s.lock", "{}");
  const Script script(outermost([&](const sys::CallInfo& info) {
    if (is_call_on(info, sys::Call::fstatat, "s.lock")) {
      fs::remove(directory / "s.lock");
    }
    return is_call_on(info, sys::Call::openat, "s.lock") ? EIO : 0;
  }));
  const auto pinned = pin(place_in(directory.path(), "s.lock"));
  REQUIRE(pinned.has_value());
  CHECK(!pinned->has_value());
}

TEST_CASE("where flock needs a writable descriptor one is opened if possible") {
  const TemporaryDirectory directory;
  fs::permissions(directory.path(), fs::perms::all);
  plant(directory / "s.lock", foreign_record(7));
  fs::permissions(directory / "s.lock", fs::perms(0644));
  const auto access = [&](bool local) {
    const Place place = place_in(".", "s.lock");
    const bool before = std::exchange(place.directory->traits->local, local);
    const auto pinned = pinned_at(place);
    place.directory->traits->local = before;
    return ::fcntl(pinned.fd.get(), F_GETFL) & O_ACCMODE;
  };
  const WorkingDirectory inside(directory.path());  // a path from the root may lead through what is root's alone
  CHECK(access(true) == O_RDONLY);
  CHECK(access(false) == O_RDWR);
  if (!can_become_second_user()) {
    skip_aloud("becoming another user needs root");
    return;
  }
  CHECK(ChildProcess::run([&](Channel&) {
          become_second_user();
          REQUIRE_IN_CHILD(access(false) == O_RDONLY);
          return 0;
        })
            .wait()
            .exited_with(0));
}

TEST_CASE("a file time beyond the year 2262, or any at all, is neither long ago nor now") {
  std::string why_not;
  const auto mount = TmpfsMount::mount("size=64k", &why_not);  // takes any time there is
  if (!mount) {
    skip_aloud("a tmpfs cannot be mounted: " + why_not);
    return;
  }
  const auto lock = *mount / "s.lock";
  plant(lock, R"({"pid": 7, "bootId": "another one"})");
  const Place place = place_in(mount->path(), "s.lock");
  for (const time_t time : {time_t{10'413'792'000}, std::numeric_limits<time_t>::max()}) {  // 2300-01-01
    const struct timespec times[2] = {{time, 999'999'999}, {time, 999'999'999}};
    REQUIRE(::utimensat(AT_FDCWD, lock.c_str(), times, 0) == 0);
    const auto pinned = pinned_at(place);
    CHECK(pinned.modified > sys::wall_clock() + std::chrono::hours{24 * 365 * 200});
    const Inspection found = judge(pinned, place, {});
    CHECK_FALSE(found.removable);  // another boot, but not one before this
    CHECK(found.file_age.value_or(std::chrono::milliseconds{0}) > std::chrono::hours{24 * 365 * 200});
  }
  const struct timespec times[2] = {{std::numeric_limits<time_t>::min(), 0}, {std::numeric_limits<time_t>::min(), 0}};
  REQUIRE(::utimensat(AT_FDCWD, lock.c_str(), times, 0) == 0);
  const auto pinned = pinned_at(place);
  CHECK(pinned.modified < WallTime{});
  CHECK(judge(pinned, place, {}).file_age.value_or(std::chrono::milliseconds{0}) > std::chrono::hours{24 * 365 * 200});
}

TEST_CASE("a pinned inode's number is not used again") {
  const TemporaryDirectory directory;
  plant(directory / "s.lock", "{}");
  const auto pinned = pinned_at(place_in(directory.path(), "s.lock"));
  fs::remove(directory / "s.lock");
  for (int i = 0; i < 50; ++i) {
    plant(directory / std::to_string(i), "{}");
    CHECK(inode_of(directory / std::to_string(i)) != pinned.file.inode);
  }
}

// --- verified removal ------------------------------------------------------------------------------------------------

namespace {

Result<bool> yes() {
  return true;
}

struct Removable {
  TemporaryDirectory directory;
  fs::path path = directory / "s.lock";
  Place place = place_in(directory.path(), "s.lock");
  Removable() { plant(path, foreign_record(7)); }
};

}  // namespace

TEST_CASE("a removable lock is judged and unlinked under its flock, which then ends") {
  // Protects: the `flock` in `remove_verified` (INVARIANT 1; trap 3).
  const Removable lock;
  auto pinned = pinned_at(lock.place);
  const SecondDescription other(lock.path);
  bool judged_under_it = false;
  bool unlinked_under_it = false;
  bool renamed = false;
  const auto removal = [&] {
    const Script script([&](const sys::CallInfo& info) {
      if (is(info, sys::Call::unlinkat)) {
        unlinked_under_it = !other.can_flock();
      }
      renamed = renamed || is(info, sys::Call::renameat2);
      return 0;
    });
    return remove_verified(lock.place, pinned, [&]() -> Result<bool> {
      judged_under_it = !other.can_flock();
      return true;
    });
  }();
  REQUIRE(removal.has_value());
  CHECK(*removal == Removal::removed);
  CHECK(judged_under_it);
  CHECK(unlinked_under_it);
  CHECK(!renamed);  // trap 2: renaming it aside could take a successor's
  CHECK(other.can_flock());
  CHECK(names_in(lock.directory.path()).empty());
}

TEST_CASE("a lock whose flock another has is busy, and is not even judged") {
  const Removable lock;
  auto pinned = pinned_at(lock.place);
  const SecondDescription other(lock.path);
  other.flock();
  const auto removal = remove_verified(lock.place, pinned, []() -> Result<bool> {
    FAIL("judged without the flock");
    return true;
  });
  REQUIRE(removal.has_value());
  CHECK(*removal == Removal::busy);
  CHECK(fs::exists(lock.path));
}

TEST_CASE("what the lock says now decides, and a lock that is no longer removable is spared") {
  // Protects: `read_again` and the second judgement in `remove_locked`.
  const Removable lock;
  auto pinned = pinned_at(lock.place);
  write_text(lock.path, foreign_record(8));
  const auto removal = remove_verified(lock.place, pinned, [&]() -> Result<bool> { return pinned.record.pid == 7; });
  REQUIRE(removal.has_value());
  CHECK(*removal == Removal::spared);
  CHECK(fs::exists(lock.path));
  CHECK(SecondDescription(lock.path).can_flock());
}

TEST_CASE("a lock that was replaced after it was judged is kept") {
  // Protects: `names_inode` in `remove_locked` (trap 1).
  const Removable lock;
  auto pinned = pinned_at(lock.place);
  fs::remove(lock.path);
  plant(lock.path, foreign_record(8));
  const auto successor = inode_of(lock.path);
  const auto removal = remove_verified(lock.place, pinned, yes);
  REQUIRE(removal.has_value());
  CHECK(*removal == Removal::replaced);
  CHECK(inode_of(lock.path) == successor);
}

TEST_CASE("a lock that is gone already is not removed again") {
  const Removable lock;
  auto pinned = pinned_at(lock.place);
  SUBCASE("before the comparison") {
    fs::remove(lock.path);
    CHECK(remove_verified(lock.place, pinned, yes) == Removal::replaced);
  }
  SUBCASE("after it") {
    const Script script([&](const sys::CallInfo& info) {
      if (is(info, sys::Call::unlinkat)) {
        fs::remove(lock.path);
      }
      return 0;
    });
    CHECK(remove_verified(lock.place, pinned, yes) == Removal::removed);
  }
}

TEST_CASE("a removal that fails keeps the failure's name and gives the flock back") {
  const Removable lock;
  auto pinned = pinned_at(lock.place);
  const SecondDescription other(lock.path);
  for (const auto& failure :
       {std::pair{sys::Call::unlinkat, EPERM}, std::pair{sys::Call::unlinkat, EROFS},
        std::pair{sys::Call::fstatat, EIO}, std::pair{sys::Call::flock, ENOLCK}, std::pair{sys::Call::pread, ENOMEM}}) {
    const sys::Call call = failure.first;
    const int error = failure.second;
    CAPTURE(sys::to_string(call));
    bool first = true;
    const auto removal = [&] {
      const Script script(
          [&](const sys::CallInfo& info) { return is(info, call) && std::exchange(first, false) ? error : 0; });
      return remove_verified(lock.place, pinned, yes);
    }();
    REQUIRE(!removal);
    CHECK(removal.error().code == std::error_code(error, std::system_category()));
    CHECK(removal.error().operation == sys::to_string(call));
    CHECK(fs::exists(lock.path));
    CHECK(other.can_flock());
  }
  const auto removal = remove_verified(lock.place, pinned,
                                       []() -> Result<bool> { return tl::unexpected(Error{Errc::invalid_argument}); });
  REQUIRE(!removal);
  CHECK(removal.error().code == Errc::invalid_argument);
  CHECK(other.can_flock());
}

TEST_CASE("a lock that cannot be read again under its flock is judged as unreadable") {
  const Removable lock;
  auto pinned = pinned_at(lock.place);
  const Script script([](const sys::CallInfo& info) { return is(info, sys::Call::pread) ? EIO : 0; });
  const auto removal = remove_verified(lock.place, pinned, [&]() -> Result<bool> { return !pinned.unreadable; });
  CHECK(removal == Removal::spared);
}

// --- guard, marks ----------------------------------------------------------------------------------------------------

TEST_CASE("a guard needs the flock and the name") {
  const TemporaryDirectory directory;
  const fs::path path = directory / "s.lock";
  const Place place = place_in(directory.path(), "s.lock");
  const auto lock = published(place);
  const int parent = place.directory->fd.get();
  const auto enter = [&] { return try_enter_guard(parent, "s.lock", lock.fd.get(), lock.file).answer; };
  {
    const SecondDescription other(path);
    CHECK(enter() == Step::Answer::done);
    CHECK(!other.can_flock());
    CHECK(leave_guard(lock.fd.get()).answer == Step::Answer::done);
    CHECK(other.can_flock());
    other.flock();
    CHECK(enter() == Step::Answer::busy);
  }
  fs::rename(path, directory / "aside");
  CHECK(enter() == Step::Answer::other);
  CHECK(SecondDescription(directory / "aside").can_flock());
  plant(path, "{}");
  CHECK(enter() == Step::Answer::other);
  const Script script([](const sys::CallInfo& info) { return is(info, sys::Call::fstatat) ? EIO : 0; });
  CHECK(enter() == Step::Answer::failed);
  CHECK(SecondDescription(directory / "aside").can_flock());
}

TEST_CASE("a holder sees a waiter's mark until the waiter is gone, and never its own") {
  const TemporaryDirectory directory;
  const Place place = place_in(directory.path(), "s.lock");
  const FileSystemTraits& traits = *place.directory->traits;
  const auto lock = published(place);
  CHECK(!has_waiting_mark(lock.fd.get(), traits));
  {
    const auto first = pinned_at(place);
    const auto second = pinned_at(place);
    mark_waiting(first, traits);
    mark_waiting(second, traits);
    CHECK(has_waiting_mark(lock.fd.get(), traits));
    CHECK(query_witness(pinned_at(place)).query == WitnessQuery::write_locked);
  }
  CHECK(!has_waiting_mark(lock.fd.get(), traits));
}
