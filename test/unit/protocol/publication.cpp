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
#include "protocol/inode_guard.hpp"
#include "protocol/temporary_name.hpp"
#include "publishing.hpp"
#include "script.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;

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
      REQUIRE_IN_CHILD(traits.names_tried.load() == is_named && !traits.locks_are_per_name.load());
    });
  }
}

TEST_CASE("a lock has exactly its permissions before it has its name, whatever the umask is") {
  for (const auto& answer : {Answer{[](const sys::CallInfo&) { return 0; }}, Answer{no_nameless_files}}) {
    for (const mode_t umask : {0U, 027U, 0777U}) {
      in_fresh_process([&] {
        const TemporaryDirectory directory;
        mode_t named{0};
        const Script script([&](const sys::CallInfo& info) {
          struct stat status {};
          if (is(info, sys::Call::write)) {  // it has no name yet
            REQUIRE_IN_CHILD(::fstat(info.fd, &status) == 0);
            named = status.st_mode & 07777;
          }
          return answer(info);
        });
        ::umask(umask);
        for (const mode_t mode : {0600U, 0644U, 0604U}) {
          named = 0;
          const auto lock = published(place_in(directory.path(), "a.lock"), {mode, std::nullopt, true});
          REQUIRE_IN_CHILD(named == mode);
          struct stat status {};
          REQUIRE_IN_CHILD(::lstat((directory / "a.lock").c_str(), &status) == 0);
          REQUIRE_IN_CHILD((status.st_mode & 07777) == mode);
          fs::remove(directory / "a.lock");
        }
      });
    }
  }
}

TEST_CASE("the record names the inode on which the witness is held, and the witness goes with the descriptor") {
  const TemporaryDirectory directory;
  const Place place = place_in(directory.path(), "s.lock");
  auto lock = published(place);
  struct stat status {};
  REQUIRE(::lstat((directory / "s.lock").c_str(), &status) == 0);
  const std::string form = place.directory->traits->locality == Locality::local ? "ofd2:" : "ofd:";
  CHECK(lock.record.witness == form + std::to_string(status.st_dev) + ":" + std::to_string(status.st_ino));
  const PinnedLock pinned = pinned_at(place);
  CHECK(pinned.content->record == lock.record);
  CHECK(query_witness(pinned).query == WitnessQuery::write_locked);
  lock.fd.reset();
  CHECK(query_witness(pinned).query == WitnessQuery::not_locked);
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
      constexpr int k_flock_beside_record_locks = 4;
      int flocks = 0;
      const Script script([&](const sys::CallInfo& info) {
        return is(info, sys::Call::flock) && ++flocks == k_flock_beside_record_locks ? EWOULDBLOCK : 0;
      });
      return published(place);
    }();
    REQUIRE_IN_CHILD(!lock.record.witness && !pinned_at(place).content->record.witness);
    REQUIRE_IN_CHILD(query_witness(pinned_at(place)).query == WitnessQuery::not_locked);
    const auto pinned = pinned_at(place);
    mark_waiting(pinned.fd.get(), *place.directory->traits);
    REQUIRE_IN_CHILD(!has_waiting_mark(lock.fd.get(), *place.directory->traits));
    REQUIRE_IN_CHILD(!published(place_in(directory.path(), "t.lock")).record.witness);
  });
}

TEST_CASE("a flock that keeps nobody out is not taken for a lock") {
  // Protects: the second `flock` of `try_exclusion`. Before it the first is dropped, as if it had not been there.
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
      LockRecord record = own_record();
      const auto attempt = publish(place, record, {});
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
  // Protects: the comparison of lock ids in `check_inode_once`.
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
      REQUIRE_IN_CHILD(names_inode({place.directory->fd.get(), "s.lock"}, lock.file).answer == Step::Answer::other);
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
  // Protects: `has_its_name` in `Candidate::link_temporary`.
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
