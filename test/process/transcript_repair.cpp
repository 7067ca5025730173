// The end of a session after a crash, on real file systems, between users, and under a lock that several programs have.

#include <sessionlock/lock_manager.hpp>
#include <sessionlock/transcript.hpp>

#include <array>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "process.hpp"
#include "script.hpp"
#include "system/system.hpp"

using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::string_view_literals;
namespace fs = std::filesystem;

namespace {

constexpr uid_t k_first_user = 1001;
constexpr uid_t k_user_of_group = 1002;
constexpr gid_t k_group = 1050;
constexpr std::uint64_t k_gib = std::uint64_t{1} << 30U;

struct Files {
  TemporaryDirectory directory{};
  fs::path session{directory / "run.jsonl"};
  fs::path torn{directory / "run.jsonl.torn"};
};

/// Appends under a lock of its own, as the next writer does.
Result<AppendReport> append_next(const fs::path& session, std::string_view record) {
  auto lock = value_or_throw(LockManager{}.acquire(session));
  auto transcript = Transcript::open(lock);
  return transcript ? transcript->append(record) : tl::unexpected(transcript.error());
}

AppendReport must(Result<AppendReport> result) {
  return value_or_throw(std::move(result));
}

Error failed(const Result<AppendReport>& result) {
  return result ? Error{} : result.error();
}

struct stat status_of(const fs::path& path) {
  struct stat status {};
  ::stat(path.c_str(), &status);
  return status;
}

mode_t mode_of(const fs::path& path) {
  return status_of(path).st_mode & 07777U;
}

/// chattr(1) `+a`, taken back at the end. False: the file system cannot do that.
class AppendOnly {
 public:
  explicit AppendOnly(fs::path path) : path_(std::move(path)), is_set_(set(FS_APPEND_FL)) {}
  ~AppendOnly() { (void)set(0); }
  AppendOnly(const AppendOnly&) = delete;
  AppendOnly& operator=(const AppendOnly&) = delete;
  [[nodiscard]] bool is_set() const { return is_set_; }

 private:
  [[nodiscard]] bool set(int flag) const {
    const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    int flags = 0;
    const bool read = ::ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0;
    flags = (flags & ~FS_APPEND_FL) | flag;
    const bool done = read && ::ioctl(fd, FS_IOC_SETFLAGS, &flags) == 0;
    ::close(fd);
    return done;
  }

  fs::path path_;
  bool is_set_;
};

/// Lets one more user read a file, by an access control list (acl(5)). False: the file system cannot do that.
bool let_read(const fs::path& path, std::uint32_t user) {
  struct Entry {
    std::uint16_t tag;
    std::uint16_t permissions;
    std::uint32_t id;
  };
  struct {
    std::uint32_t version{2};
    std::array<Entry, 5> entries{};
  } list;
  constexpr std::uint32_t nobody = ~std::uint32_t{0};
  // As in linux/posix_acl.h: the owner, a user, the group, the mask, others.
  list.entries = {Entry{1, 6, nobody}, Entry{2, 4, user}, Entry{4, 0, nobody}, Entry{16, 4, nobody},
                  Entry{32, 0, nobody}};
  return ::setxattr(path.c_str(), "system.posix_acl_access", &list, sizeof list, 0) == 0;
}

/// A shell script under a lock, with the session's path in `$S`. Waits for nothing.
pid_t spawn_script(const SessionLock& lock, const fs::path& session, const std::string& script) {
  std::string name = "sh";
  std::string option = "-c";
  std::string text = "S='" + session.native() + "'; " + script;
  char* const arguments[] = {name.data(), option.data(), text.data(), nullptr};
  return value_or_throw(lock.spawn_with(name.c_str(), arguments, environ));
}

/// Becomes a user for good whose own group is another one than that of which it is a member.
void become_member(uid_t user, gid_t group) {
  const gid_t own_group = user;
  if (::setgroups(1, &group) != 0 || ::setresgid(own_group, own_group, own_group) != 0 ||
      ::setresuid(user, user, user) != 0 || ::prctl(PR_SET_DUMPABLE, 1) != 0) {
    throw std::system_error(errno, std::system_category(), "become a member");
  }
}

void wait_for_end(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  CHECK(status == 0);
}

}  // namespace

// --- under a lock that several programs have -------------------------------------------------------------------------

TEST_CASE("while a program that was given the lock is in the middle of a line, the owner's append leaves that alone") {
  // Protects: `is_handed_over` in `Transcript::State::is_shared_with_others`.
  Files files;
  const fs::path pipe = files.directory / "pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  auto lock = value_or_throw(LockManager{}.acquire(files.session));
  auto transcript = value_or_throw(Transcript::open(lock));
  (void)must(transcript.append(R"({"by":"owner","n":1})"));
  const pid_t heir = spawn_script(
      lock, files.session,
      "printf '{\"by\":\"heir\",' >> \"$S\"; read -r go < '" + pipe.native() + "'; printf '\"n\":2}\\n' >> \"$S\"");
  wait_until("the heir is in the middle of its line", [&] { return read_text(files.session).ends_with("heir\","); });
  const Error error = failed(transcript.append(R"({"by":"owner","n":3})"));
  CHECK(error.code == Errc::torn_transcript);
  CHECK(failed(Transcript::repair(lock)).code == Errc::torn_transcript);
  CHECK(read_text(files.session).ends_with("heir\","));
  std::ofstream(pipe) << "go\n" << std::flush;
  wait_for_end(heir);
  (void)must(transcript.append(R"({"by":"owner","n":3})"));
  CHECK(read_text(files.session) ==
        "{\"by\":\"owner\",\"n\":1}\n{\"by\":\"heir\",\"n\":2}\n{\"by\":\"owner\",\"n\":3}\n");
  CHECK_FALSE(fs::exists(files.torn));
}

TEST_CASE("what a program that was given the lock left torn is repaired under the next lock") {
  Files files;
  auto lock = value_or_throw(LockManager{}.acquire(files.session));
  wait_for_end(spawn_script(lock, files.session, "printf '{\"half\":' >> \"$S\""));
  {
    auto transcript = value_or_throw(Transcript::open(lock));
    CHECK(failed(transcript.append("1")).code == Errc::torn_transcript);
  }
  REQUIRE(lock.release());
  CHECK(must(append_next(files.session, "1")).torn_bytes_moved == 8);
  CHECK(read_text(files.session) == "1\n");
}

TEST_CASE("a lock that no program could be given is not shared") {
  Files files;
  write_text(files.session, "{\"half\":");
  auto lock = value_or_throw(LockManager{}.acquire(files.session));
  char* const arguments[] = {nullptr};
  CHECK_FALSE(lock.spawn_with("/nowhere/at/all", arguments, environ));
  auto transcript = value_or_throw(Transcript::open(lock));
  CHECK(must(transcript.append("1")).torn_bytes_moved == 8);
}

TEST_CASE("a session that is repaired before it is handed over is whole for the appends of others") {
  Files files;
  write_text(files.session, "{\"n\":1}\n{\"half\":\0\0"sv);
  auto lock = value_or_throw(LockManager{}.acquire(files.session));
  const AppendReport report = must(Transcript::repair(lock));
  CHECK(report.records == 0);
  CHECK(report.torn_bytes_moved == 8);
  CHECK(report.nul_bytes_cut == 2);
  CHECK(read_text(files.session) == "{\"n\":1}\n");
  wait_for_end(spawn_script(lock, files.session, "true"));
  auto joined = value_or_throw(LockManager{}.join(files.session, lock.record().lock_id.value_or("")));
  auto transcript = value_or_throw(Transcript::open(joined));
  (void)must(transcript.append("2"));
  CHECK(read_text(files.session) == "{\"n\":1}\n2\n");
}

TEST_CASE("another user's session that may only be read is not repaired, and that is no error") {
  if (!can_become_second_user()) {
    skip_aloud("becoming another user needs root");
    return;
  }
  Files files;
  write_text(files.session, "{\"half\":");
  fs::permissions(files.session, fs::perms{0644});
  fs::permissions(files.directory.path(), fs::perms{0777});
  auto child = ChildProcess::run([&](Channel&) {
    become_second_user();
    auto lock = value_or_throw(LockManager{}.acquire(files.session));
    const auto report = Transcript::repair(lock);
    REQUIRE_IN_CHILD(report && report->torn_bytes_moved == 0);
    return 0;
  });
  CHECK(child.wait().exited_with(0));
  CHECK(read_text(files.session) == "{\"half\":");
}

// --- the file for torn lines -----------------------------------------------------------------------------------------

TEST_CASE("users who share a session by its group share its torn lines") {
  // Protects: `align` in src/sessions/torn_file.cpp.
  if (!can_become_second_user()) {
    skip_aloud("becoming another user needs root");
    return;
  }
  Files files;
  REQUIRE(::chown(files.directory.path().c_str(), 0, k_group) == 0);
  fs::permissions(files.directory.path(), fs::perms{0770});
  for (const uid_t user : {k_user_of_group, k_first_user, k_user_of_group}) {
    CAPTURE(user);
    write_text(files.session, "{\"a");
    REQUIRE(::chown(files.session.c_str(), k_first_user, k_group) == 0);
    fs::permissions(files.session, fs::perms{0660});
    auto writer = ChildProcess::run([&](Channel&) {
      ::umask(022);
      become_member(user, k_group);
      REQUIRE_IN_CHILD(must(append_next(files.session, "1")).torn_bytes_moved == 3);
      return 0;
    });
    CHECK(writer.wait().exited_with(0));
    CHECK(mode_of(files.torn) == 0660);
    CHECK(status_of(files.torn).st_gid == k_group);
  }
  CHECK(read_text(files.torn) == "{\"a\n{\"a\n{\"a\n");
}

TEST_CASE("what root moves out of a user's session is that user's") {
  if (!can_become_second_user()) {
    skip_aloud("giving a file away needs root");
    return;
  }
  Files files;
  write_text(files.session, "{\"a");
  REQUIRE(::chown(files.session.c_str(), k_first_user, k_group) == 0);
  fs::permissions(files.session, fs::perms{0640});
  (void)must(append_next(files.session, "1"));
  CHECK(status_of(files.torn).st_uid == k_first_user);
  CHECK(status_of(files.torn).st_gid == k_group);
  CHECK(mode_of(files.torn) == 0640);
}

TEST_CASE("at no moment may anybody read the torn lines who may not read the session") {
  if (!can_become_second_user()) {
    skip_aloud("giving a file away needs root");
    return;
  }
  struct Before {
    bool exists{};
    gid_t group{};
    mode_t mode{};
  };
  for (const Before& before :
       {Before{false, 0, 0}, Before{true, 0, 0666}, Before{true, k_group, 0666}, Before{true, 0, 0660}}) {
    CAPTURE(before.exists);
    CAPTURE(before.group);
    CAPTURE(before.mode);
    Files files;
    write_text(files.session, "{\"secret");
    REQUIRE(::chown(files.session.c_str(), k_first_user, k_group) == 0);
    fs::permissions(files.session, fs::perms{0640});
    if (before.exists) {
      write_text(files.torn, "");
      REQUIRE(::chown(files.torn.c_str(), 0, before.group) == 0);
      fs::permissions(files.torn, static_cast<fs::perms>(before.mode));
    }
    const mode_t mask = ::umask(0);
    {
      bool is_changed = !before.exists;
      const Script script([&](const sys::CallInfo& info) {
        struct stat status {};
        if (::stat(files.torn.c_str(), &status) == 0 && (is_changed || status.st_size > 0)) {
          CHECK((status.st_mode & (status.st_gid == k_group ? ~0640U : ~0600U) & 0777U) == 0);
        }
        is_changed = is_changed || info.call == sys::Call::fchmod || info.call == sys::Call::fchown;
        return 0;
      });
      (void)must(append_next(files.session, "1"));
    }
    ::umask(mask);
    CHECK(mode_of(files.torn) == 0640);
    CHECK(read_text(files.torn) == "{\"secret\n");
  }
}

TEST_CASE("a file that a stranger put in the place of the torn lines gets none of them") {
  // Protects: `may_own_beside` in `TornFile::open`.
  if (!can_become_second_user()) {
    skip_aloud("becoming another user needs root");
    return;
  }
  Files files;
  fs::permissions(files.directory.path(), fs::perms{01777});
  write_text(files.session, "{\"secret");
  fs::permissions(files.session, fs::perms{0600});
  auto stranger = ChildProcess::run([&](Channel&) {
    become_second_user();
    ::umask(0);
    write_text(files.torn, "");
    return 0;
  });
  REQUIRE(stranger.wait().exited_with(0));
  const Error error = failed(append_next(files.session, "1"));
  CHECK(error.code == std::errc::operation_not_permitted);
  CHECK(error.path == files.torn);
  CHECK(error.detail.find("move it away") != std::string::npos);
  CHECK(read_text(files.session) == "{\"secret");
  CHECK(read_text(files.torn).empty());
  CHECK(status_of(files.torn).st_uid == k_second_uid);
}

TEST_CASE("another user's file for torn lines that more users may write than the session is not written to") {
  if (!can_become_second_user()) {
    skip_aloud("becoming another user needs root");
    return;
  }
  Files files;
  fs::permissions(files.directory.path(), fs::perms{0777});
  write_text(files.session, "{\"a");
  REQUIRE(::chown(files.session.c_str(), k_first_user, k_group) == 0);
  fs::permissions(files.session, fs::perms{0644});
  write_text(files.torn, "");
  REQUIRE(::chown(files.torn.c_str(), k_user_of_group, k_group) == 0);
  const auto append_as_first_user = [&] {
    return ChildProcess::run([&](Channel&) {
      become_user(k_first_user, k_group);
      const Error error = failed(append_next(files.session, "1"));
      return error.code == std::errc::operation_not_permitted && error.path == files.torn ? 1 : error.code ? 2 : 0;
    });
  };
  fs::permissions(files.torn, fs::perms{0666});
  CHECK(append_as_first_user().wait().exited_with(1));
  CHECK(read_text(files.torn).empty());
  CHECK(read_text(files.session) == "{\"a");
  fs::permissions(files.torn, fs::perms{0664});
  CHECK(append_as_first_user().wait().exited_with(1));
}

TEST_CASE("another name of a file is not written to as the file for torn lines") {
  Files files;
  write_text(files.session, "{\"a");
  write_text(files.directory / "precious", "precious\n");
  fs::create_hard_link(files.directory / "precious", files.torn);
  const Error error = failed(append_next(files.session, "1"));
  CHECK(error.code == Errc::invalid_argument);
  CHECK(error.path == files.torn);
  CHECK(error.detail.find("2 names") != std::string::npos);
  CHECK(error.detail.find("move it away") != std::string::npos);
  CHECK(read_text(files.directory / "precious") == "precious\n");
  CHECK(read_text(files.session) == "{\"a");
  fs::remove(files.torn);
  CHECK(must(append_next(files.session, "1")).torn_bytes_moved == 3);
}

TEST_CASE("what is in the way of the file for torn lines is named, with what to do") {
  Files files;
  write_text(files.session, "{\"a");
  std::string_view words;
  SUBCASE("a symbolic link") {
    fs::create_symlink("elsewhere", files.torn);
    words = "a symbolic link has that name";
  }
  SUBCASE("a directory") {
    fs::create_directory(files.torn);
    words = "a directory has that name";
  }
  SUBCASE("a FIFO") {
    REQUIRE(::mkfifo(files.torn.c_str(), 0600) == 0);
    words = "it is no regular file";
  }
  const Error error = failed(append_next(files.session, "1"));
  CHECK(error.path == files.torn);
  CHECK(error.detail.find(words) == 0);
  CHECK(error.detail.find("move it away") != std::string::npos);
  CHECK_FALSE(fs::exists(files.directory / "elsewhere"));
}

TEST_CASE("beside a session with an access control list the torn lines are their owner's alone") {
  Files files;
  write_text(files.session, "{\"a");
  if (!let_read(files.session, k_first_user)) {
    skip_aloud("no access control lists on this file system");
    return;
  }
  REQUIRE(mode_of(files.session) == 0640);  // the group's bits are the list's mask; the group itself may do nothing
  SUBCASE("that is seen") {
    (void)must(append_next(files.session, "1"));
  }
  SUBCASE("that cannot be asked for") {
    const Script script(failing(sys::Call::fgetxattr, EIO));
    (void)must(append_next(files.session, "1"));
  }
  CHECK(mode_of(files.torn) == 0600);
}

// --- a session that can only be appended to --------------------------------------------------------------------------

TEST_CASE("in a session that can only be appended to a torn line stays, and gets a newline") {
  Files files;
  write_text(files.session, "{\"n\":1}\n{\"n\":");
  const AppendOnly attribute(files.session);
  if (!attribute.is_set()) {
    skip_aloud("no append-only files here");
    return;
  }
  auto lock = value_or_throw(LockManager{}.acquire(files.session));
  SUBCASE("that the file system says so") {
    auto transcript = value_or_throw(Transcript::open(lock));
    const AppendReport report = must(transcript.append("2"));
    CHECK(report.torn_bytes_left == 5);
    CHECK(report.torn_bytes_moved == 0);
    CHECK(report.offset == 14);
    CHECK(must(transcript.append("3")).torn_bytes_left == 0);
    CHECK_FALSE(fs::exists(files.torn));
  }
  SUBCASE("that the cut is refused") {
    const Script script(failing(sys::Call::statx, ENOSYS));
    auto transcript = value_or_throw(Transcript::open(lock));
    CHECK(must(transcript.append("2")).torn_bytes_left == 5);
    CHECK(must(transcript.append("3")).torn_bytes_left == 0);
    CHECK(read_text(files.torn).empty());
  }
  CHECK(read_text(files.session) == "{\"n\":1}\n{\"n\":\n2\n3\n");
  REQUIRE(lock.release());
  CHECK(must(append_next(files.session, "4")).torn_bytes_left == 0);
}

TEST_CASE(
    "in a session that can only be appended to NULs stay, a whole value stays a record, and a repair adds one byte") {
  Files files;
  struct Case {
    std::string_view before{};
    std::uint64_t left{};
  };
  for (const Case& one : {Case{"{}\n\0\0\0"sv, 3}, Case{"{}\0\0"sv, 4}, Case{"{\"a\":1}"sv, 0}}) {
    CAPTURE(one.before);
    write_text(files.session, one.before);
    const AppendOnly attribute(files.session);
    if (!attribute.is_set()) {
      skip_aloud("no append-only files here");
      return;
    }
    auto lock = value_or_throw(LockManager{}.acquire(files.session));
    const AppendReport report = must(Transcript::repair(lock));
    CHECK(report.torn_bytes_left == one.left);
    CHECK(report.nul_bytes_cut == 0);
    CHECK(read_text(files.session) == std::string(one.before) + "\n");
  }
}

// --- holes -----------------------------------------------------------------------------------------------------------

TEST_CASE("three gigabytes that were never written cost neither reading nor writing") {
  std::string why_not;
  const auto memory = TmpfsMount::mount("size=8m", &why_not);
  const TemporaryDirectory disk;
  for (const auto& folder : {memory ? memory->path() : disk.path(), disk.path()}) {
    const fs::path session = folder / "run.jsonl";
    write_text(session, "{\"a\":1}\n{\"b\":2}");
    REQUIRE(::truncate(session.c_str(), 15 + 3 * k_gib) == 0);
    std::uint64_t moved = 0;
    {
      const Script script([&](const sys::CallInfo& info) {
        moved += info.length != nullptr ? *info.length : 0;
        return 0;
      });
      const AppendReport report = must(append_next(session, "1"));
      CHECK(report.nul_bytes_cut == 3 * k_gib);
      CHECK(report.torn_bytes_moved == 0);
    }
    CHECK(moved < 2'000'000);
    CHECK(read_text(session) == "{\"a\":1}\n{\"b\":2}\n1\n");
    CHECK_FALSE(fs::exists(session.native() + ".torn"));
  }
  if (!memory) {
    skip_aloud(why_not);
  }
}

TEST_CASE("a hole inside a torn line is a hole in its copy") {
  Files files;
  write_text(files.session, "{}\n{\"a\":");
  REQUIRE(::truncate(files.session.c_str(), 3 * k_gib) == 0);
  std::ofstream(files.session, std::ios::binary | std::ios::app) << "1" << std::flush;
  std::uint64_t moved = 0;
  {
    const Script script([&](const sys::CallInfo& info) {
      moved += info.length != nullptr ? *info.length : 0;
      return 0;
    });
    CHECK(must(append_next(files.session, "1")).torn_bytes_moved == 3 * k_gib + 1 - 3);
  }
  CHECK(moved < 2'000'000);
  CHECK(read_text(files.session) == "{}\n1\n");
  CHECK(fs::file_size(files.torn) == 3 * k_gib + 1 - 3 + 1);
  CHECK(status_of(files.torn).st_blocks < 1000);
}
