#include "protocol/session_location.hpp"

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>

#include <doctest/doctest.h>
#include <sys/mount.h>

#include "lock_tools.hpp"
#include "process.hpp"
#include "script.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;

namespace {

/// Two locations are of one lock.
bool same_lock(const SessionLocation& a, const SessionLocation& b) {
  return a.lock.directory->identity == b.lock.directory->identity && a.lock.name == b.lock.name;
}

std::error_code refusal(const fs::path& session, const LocateOptions& options = {}) {
  const auto location = locate(session, options);
  REQUIRE(!location);
  return location.error().code;
}

}  // namespace

TEST_CASE("a lock lies beside its session and is named after it") {
  const TemporaryDirectory directory;
  const auto location = located(directory / "run.jsonl");
  CHECK(location.session.path() == directory / "run.jsonl");
  CHECK(location.lock.path() == directory / "run.jsonl.lock");
  CHECK(lock_name_beside("run.jsonl") == "run.jsonl.lock");
  CHECK(session_name_of_lock("run.jsonl.lock") == "run.jsonl");
  CHECK(session_name_of_lock("run.jsonl").empty());
  CHECK(session_name_of_lock(".lock").empty());
}

TEST_CASE("a session is the same through a symlinked directory") {
  const TemporaryDirectory directory;
  fs::create_directory(directory / "real");
  fs::create_directory_symlink(directory / "real", directory / "link");
  const auto location = located(directory / "link/s");
  CHECK(same_lock(location, located(directory / "real/s")));
  CHECK(location.session.path() == directory / "real/s");
  CHECK(location.lock.path() == directory / "real/s.lock");
}

TEST_CASE("a symlinked session and its target are one session") {
  const TemporaryDirectory directory;
  fs::create_directory(directory / "far");
  write_text(directory / "far/target", "x\n");
  fs::create_symlink("far/target", directory / "relative");
  fs::create_symlink(directory / "far/target", directory / "absolute");
  const auto target = located(directory / "far/target");
  CHECK(same_lock(located(directory / "relative"), target));
  CHECK(same_lock(located(directory / "absolute"), target));
  CHECK(located(directory / "relative").session.path() == directory / "far/target");
}

TEST_CASE("a chain of links is followed one by one, each from its own directory") {
  const TemporaryDirectory directory;
  fs::create_directories(directory / "a/b");
  fs::create_directory(directory / "c");
  write_text(directory / "c/end", "");
  fs::create_symlink("a/one", directory / "start");
  fs::create_symlink("b/two", directory / "a/one");
  fs::create_symlink("../../c/end", directory / "a/b/two");
  CHECK(located(directory / "start").session.path() == directory / "c/end");
}

TEST_CASE("a dangling chain of links ends at the name that is missing") {
  const TemporaryDirectory directory;
  fs::create_directory(directory / "a");
  fs::create_symlink("a/one", directory / "start");
  fs::create_symlink("missing", directory / "a/one");
  const auto location = located(directory / "start");
  CHECK(location.session.path() == directory / "a/missing");
  CHECK(same_lock(location, located(directory / "a/missing")));
  SUBCASE("and stays the same session once the target is there") {
    write_text(directory / "a/missing", "");
    CHECK(same_lock(location, located(directory / "start")));
  }
}

TEST_CASE("a dangling link into a missing directory makes that directory when asked") {
  const TemporaryDirectory directory;
  fs::create_symlink("new/deep/target", directory / "start");
  CHECK(refusal(directory / "start") == std::errc::no_such_file_or_directory);
  CHECK(!fs::exists(directory / "new"));
  CHECK(located(directory / "start", {{}, true, false}).lock.path() == directory / "new/deep/target.lock");
}

TEST_CASE("nested directories are made when asked, and only then") {
  const TemporaryDirectory directory;
  CHECK(refusal(directory / "x/y/z/s") == std::errc::no_such_file_or_directory);
  CHECK(!fs::exists(directory / "x"));
  CHECK(located(directory / "x/y/z/s", {{}, true, false}).session.path() == directory / "x/y/z/s");
}

TEST_CASE("a loop of links is refused") {
  const TemporaryDirectory directory;
  fs::create_symlink("b", directory / "a");
  fs::create_symlink("a", directory / "b");
  fs::create_symlink("self", directory / "self");
  CHECK(refusal(directory / "a") == std::errc::too_many_symbolic_link_levels);
  CHECK(refusal(directory / "self") == std::errc::too_many_symbolic_link_levels);
}

TEST_CASE("as many links as the kernel follows are followed") {
  const TemporaryDirectory directory;
  write_text(directory / "0", "");
  for (int i = 1; i <= 40; ++i) {
    fs::create_symlink(std::to_string(i - 1), directory / std::to_string(i));
  }
  CHECK(located(directory / "40").session.path() == directory / "0");
}

TEST_CASE("a relative path means the working directory of now") {
  const TemporaryDirectory directory;
  fs::create_directory(directory / "a");
  fs::create_directory(directory / "b");
  const WorkingDirectory restore(directory / "a");
  const auto first = located("s");
  CHECK(first.lock.path() == directory / "a/s.lock");
  CHECK(located("../b/s").lock.path() == directory / "b/s.lock");
  fs::current_path(directory / "b");
  const auto second = located("s");
  CHECK(second.lock.path() == directory / "b/s.lock");
  CHECK(!same_lock(first, second));
  CHECK(same_lock(second, located(directory / "b/s")));
}

TEST_CASE("a session with several hard links is refused, and the option is named") {
  const TemporaryDirectory directory;
  write_text(directory / "one", "");
  fs::create_hard_link(directory / "one", directory / "two");
  const auto refused = locate(directory / "two", {});
  REQUIRE(!refused);
  CHECK(refused.error().code == Errc::aliased_session);
  CHECK(refused.error().message().find("allow_hard_links") != std::string::npos);
  CHECK(refused.error().message().find("--allow-hard-links") != std::string::npos);
  SUBCASE("also at the end of a link") {
    fs::create_symlink("two", directory / "link");
    CHECK(refusal(directory / "link") == Errc::aliased_session);
  }
  SUBCASE("unless it is accepted") {
    CHECK(located(directory / "two", {{}, false, true}).session.path() == directory / "two");
  }
}

TEST_CASE("what the system says about a session keeps its own identity") {
  const TemporaryDirectory directory;
  const Script script([](const sys::CallInfo& info) { return is_call_on(info, sys::Call::statx, "s") ? EIO : 0; });
  const auto refused = locate(directory / "s", {});
  REQUIRE(!refused);
  CHECK(refused.error().code == std::error_code(EIO, std::system_category()));
  CHECK(refused.error().path == directory / "s");
}

TEST_CASE("a path that names no file is refused") {
  const TemporaryDirectory directory;
  const std::string base = directory.path().string();
  CHECK(refusal("") == Errc::invalid_argument);
  CHECK(refusal(".") == Errc::invalid_argument);
  CHECK(refusal("..") == Errc::invalid_argument);
  CHECK(refusal("/") == Errc::invalid_argument);
  CHECK(refusal(base + "/.") == Errc::invalid_argument);
  CHECK(refusal(base + "/..") == Errc::invalid_argument);
  CHECK(refusal(base + "/s/") == Errc::invalid_argument);
  CHECK(refusal(base + std::string("/s\0t", 4)) == Errc::invalid_argument);
  CHECK(refusal(base + std::string("\0/s", 3)) == Errc::invalid_argument);
  CHECK(refusal(base) == std::errc::is_a_directory);
  fs::create_symlink("sub/", directory / "slash");
  CHECK(refusal(directory / "slash") == Errc::invalid_argument);
}

TEST_CASE("another session's lock is refused as a session, also through a link, and a gate of that name is not") {
  const TemporaryDirectory directory;
  CHECK(refusal(directory / "s.jsonl.lock") == Errc::invalid_argument);
  fs::create_symlink("s.jsonl.lock", directory / "link");
  CHECK(refusal(directory / "link") == Errc::invalid_argument);
  CHECK(locate(directory / "s.jsonl.lock", {.naming = LockNaming::itself}).has_value());
  CHECK(locate(directory / ".lock", {}).has_value());
  const auto refused = locate(directory / "s.jsonl.lock", {});
  CHECK(refused.error().message().find("name its session, s.jsonl") != std::string::npos);
}

TEST_CASE("a lock file that is named itself is not looked for behind a link, but below a linked directory") {
  const TemporaryDirectory directory;
  fs::create_directory(directory / "real");
  fs::create_directory_symlink("real", directory / "link");
  fs::create_symlink("elsewhere", directory / "real/work.gate");
  const LocateOptions options{.naming = LockNaming::itself};
  const auto gate = located(directory / "link/work.gate", options);
  CHECK(gate.lock.path() == directory / "real/work.gate");
  CHECK(*is_current(gate, directory / "link/work.gate", options));
  write_text(directory / "real/linked.gate", "");
  fs::create_hard_link(directory / "real/linked.gate", directory / "another");  // no session has two names here
  const auto linked = located(directory / "real/linked.gate", options);
  CHECK(*is_current(linked, directory / "real/linked.gate", options));
  fs::remove(directory / "link");
  fs::create_directory_symlink(".", directory / "link");
  CHECK_FALSE(*is_current(gate, directory / "link/work.gate", options));
}

TEST_CASE("a file where a directory should be keeps its own error") {
  const TemporaryDirectory directory;
  write_text(directory / "file", "");
  CHECK(refusal(directory / "file/s") == std::errc::not_a_directory);
  CHECK(refusal(directory / "file/s", {{}, true, false}) == std::errc::not_a_directory);
}

TEST_CASE("in a directory of locks the name is a UUID of the canonical path") {
  // From Python: uuid.uuid5(uuid.NAMESPACE_URL, "/srv/sessions/run.jsonl").
  CHECK(lock_name_in_directory("/srv/sessions/run.jsonl") == "c09e5ad2-6ab9-5959-bc54-5fbde577b99f-run.jsonl.lock");
}

TEST_CASE("in a directory of locks all ways to a session meet, and sessions of one name do not") {
  const TemporaryDirectory directory;
  fs::create_directories(directory / "a");
  fs::create_directories(directory / "b");
  fs::create_directory_symlink("a", directory / "link");
  const LocateOptions options{directory / "locks", true, false};
  const auto a = located(directory / "a/s", options);
  CHECK(a.lock.path() == directory / "locks" / lock_name_in_directory(directory / "a/s"));
  CHECK(same_lock(a, located(directory / "link/s", options)));
  CHECK(!same_lock(a, located(directory / "b/s", options)));
  SUBCASE("even after directories have changed places") {
    fs::rename(directory / "b", directory / "c");
    fs::rename(directory / "a", directory / "b");
    const auto moved = located(directory / "b/s", options);
    CHECK(moved.lock.name == lock_name_in_directory(directory / "b/s"));
    fs::remove(directory / "link");
    fs::create_directory_symlink("b", directory / "link");
    CHECK(same_lock(moved, located(directory / "link/s", options)));
  }
  SUBCASE("even where a link stands in its old place") {
    fs::rename(directory / "a", directory / "c");
    fs::create_directory_symlink("c", directory / "a");
    CHECK(located(directory / "a/s", options).lock.name == lock_name_in_directory(directory / "c/s"));
    CHECK(same_lock(located(directory / "a/s", options), located(directory / "c/s", options)));
  }
}

TEST_CASE("a missing directory of locks is an error where nothing may be made") {
  const TemporaryDirectory directory;
  CHECK(refusal(directory / "s", {directory / "locks", false, false}) == std::errc::no_such_file_or_directory);
}

TEST_CASE("a directory that is renamed while open stays the same lock's") {
  const TemporaryDirectory directory;
  fs::create_directory(directory / "d");
  const auto before = located(directory / "d/s");
  fs::rename(directory / "d", directory / "e");
  const auto after = located(directory / "e/s");
  CHECK(same_lock(before, after));
  CHECK(after.session.path() == directory / "e/s");
  CHECK(!*is_current(before, directory / "d/s", {}));
  CHECK(*is_current(before, directory / "e/s", {}));
}

TEST_CASE("a session path is right after its directory moved with the link that leads to it") {
  const TemporaryDirectory directory;
  fs::create_directory(directory / "d");
  fs::create_directory_symlink("d", directory / "link");
  std::optional<SessionLocation> open = located(directory / "link/s");
  SUBCASE("while it is open") {}
  SUBCASE("after it was closed") {
    open.reset();
  }
  fs::rename(directory / "d", directory / "e");
  fs::remove(directory / "link");
  fs::create_directory_symlink("e", directory / "link");
  fs::create_directory(directory / "d");  // what used to be its name is another's now
  const auto location = located(directory / "link/s");
  CHECK(location.session.path() == directory / "e/s");
  CHECK(location.lock.path() == directory / "e/s.lock");
}

TEST_CASE("a session path is right after the working directory was renamed") {
  const TemporaryDirectory directory;
  fs::create_directory(directory / "d");
  const WorkingDirectory restore(directory / "d");
  CHECK(located("s").session.path() == directory / "d/s");
  fs::rename(directory / "d", directory / "e");
  fs::create_directory(directory / "d");
  CHECK(located("s").session.path() == directory / "e/s");
  CHECK(same_lock(located("s"), located(directory / "e/s")));
}

TEST_CASE("a relative link is followed from where its directory is now") {
  const TemporaryDirectory directory;
  fs::create_directory(directory / "d");
  fs::create_directory_symlink("d", directory / "link");
  fs::create_symlink("target", directory / "d/s");
  CHECK(located(directory / "link/s").session.path() == directory / "d/target");
  fs::rename(directory / "d", directory / "e");
  fs::remove(directory / "link");
  fs::create_directory_symlink("e", directory / "link");
  fs::create_directory(directory / "d");
  CHECK(located(directory / "link/s").session.path() == directory / "e/target");
}

TEST_CASE("a link that goes while it is followed is looked at again") {
  // Protects: EINVAL and ENOENT of `readlinkat` in `follow`.
  const TemporaryDirectory directory;
  fs::create_symlink("target", directory / "s");
  for (const bool is_replaced : {true, false}) {
    const Script script(once_before([](const sys::CallInfo& info) { return info.call == sys::Call::readlinkat; },
                                    [&] {
                                      fs::remove(directory / "s");
                                      if (is_replaced) {
                                        write_text(directory / "s", "");
                                      }
                                    }));
    CHECK(located(directory / "s").session.path() == directory / "s");
    fs::remove(directory / "s");
    fs::create_symlink("target", directory / "s");
  }
}

TEST_CASE("a location is current until its path leads elsewhere") {
  const TemporaryDirectory directory;
  write_text(directory / "one", "");
  write_text(directory / "two", "");
  fs::create_symlink("one", directory / "s");
  const auto location = located(directory / "s");
  CHECK(*is_current(location, directory / "s", {}));
  fs::remove(directory / "s");
  CHECK(!*is_current(location, directory / "s", {}));
  fs::create_symlink("two", directory / "s");
  CHECK(!*is_current(location, directory / "s", {}));
  SUBCASE("and trouble in finding out is not an answer") {
    fs::create_hard_link(directory / "two", directory / "three");
    const auto current = is_current(location, directory / "s", {});
    REQUIRE(!current);
    CHECK(current.error().code == Errc::aliased_session);
  }
}
