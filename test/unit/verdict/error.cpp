#include <sessionlock/error.hpp>

#include <doctest/doctest.h>

#include <cerrno>
#include <set>
#include <string>
#include <type_traits>

using namespace sessionlock;
using namespace std::chrono_literals;

namespace {

Error contention() {
  Inspection holder;
  holder.lock_path = "/path/x.jsonl.lock";
  holder.state = LockState::held;
  holder.owner = OwnerState::alive;
  holder.basis = Basis::verified;
  holder.record.pid = 41237;
  holder.record.label = "nightly";
  holder.age = 12s;
  Error error;
  error.code = Errc::timed_out;
  error.operation = "acquire";
  error.path = "/path/x.jsonl";
  error.holder = holder;
  error.detail = "timeout 500ms";
  return error;
}

constexpr Errc k_all[] = {Errc::locked,
                          Errc::timed_out,
                          Errc::cancelled,
                          Errc::lost,
                          Errc::not_a_lock_file,
                          Errc::aliased_session,
                          Errc::unsupported_file_system,
                          Errc::invalid_argument,
                          Errc::invalid_record,
                          Errc::torn_transcript,
                          Errc::replaced_session};

}  // namespace

TEST_CASE("contention is told with time-out, owner, age, label and path") {
  CHECK(contention().message() ==
        "session file locked (timeout 500ms): pid=41237 alive age=12s label=\"nightly\" /path/x.jsonl.lock");
}

TEST_CASE("contention without a wait is told the same way") {
  Error error = contention();
  error.code = Errc::locked;
  error.detail = "no wait";
  CHECK(error.message() ==
        "session file locked (no wait): pid=41237 alive age=12s label=\"nightly\" /path/x.jsonl.lock");
  error.detail.clear();
  CHECK(error.message() == "session file locked: pid=41237 alive age=12s label=\"nightly\" /path/x.jsonl.lock");
}

TEST_CASE("what is unknown of a holder is left out") {
  Error error = contention();
  error.holder->owner = OwnerState::unknown;
  error.holder->record = {};
  error.holder->age.reset();
  CHECK(error.message() == "session file locked (timeout 500ms): unknown /path/x.jsonl.lock");
  error.holder->lock_path.clear();
  CHECK(error.message() == "session file locked (timeout 500ms): unknown /path/x.jsonl");
}

TEST_CASE("contention without any path ends with what is known of the holder") {
  Error error = contention();
  error.path.clear();
  error.holder->lock_path.clear();
  CHECK(error.message() == "session file locked (timeout 500ms): pid=41237 alive age=12s label=\"nightly\"");
}

TEST_CASE("a holder's state is told in a word") {
  Error error = contention();
  error.holder->record.label.reset();
  error.holder->owner = OwnerState::dead;
  CHECK(error.message() == "session file locked (timeout 500ms): pid=41237 dead age=12s /path/x.jsonl.lock");
  error.holder->owner = OwnerState::unknown;
  CHECK(error.message() == "session file locked (timeout 500ms): pid=41237 unknown age=12s /path/x.jsonl.lock");
  error.holder->owner = OwnerState::none;
  error.holder->basis = Basis::no_pid;
  error.holder->record.pid.reset();
  error.holder->age.reset();
  error.holder->file_age = 3s;
  CHECK(error.message() == "session file locked (timeout 500ms): no usable pid age=3s /path/x.jsonl.lock");
}

TEST_CASE("nobody is sent after an owner that has ended when a program it gave the lock to has it") {
  Error error = contention();
  error.holder->basis = Basis::witness_inherited;
  CHECK(error.message() ==
        "session file locked (timeout 500ms): pid=41237 ended, a program it gave the lock to runs on, age=12s "
        "label=\"nightly\" /path/x.jsonl.lock");
}

TEST_CASE("a lock that cannot be read is told with the cause") {
  Error error = contention();
  error.holder->basis = Basis::unreadable;
  error.holder->owner = OwnerState::unknown;
  error.holder->record = {};
  error.holder->age.reset();
  error.holder->cause = {EACCES, std::system_category()};
  CHECK(error.message() ==
        "session file locked (timeout 500ms): held by an unreadable lock (Permission denied) /path/x.jsonl.lock");
}

TEST_CASE("a label or path with control characters keeps the message on one line") {
  Error error = contention();
  error.holder->record.label = "a\nb\x1b[2J\" pid=1";
  error.holder->lock_path = "/path/new\nline.lock";
  CHECK(error.message() ==
        "session file locked (timeout 500ms): pid=41237 alive age=12s "
        "label=\"a\\nb\\x1b[2J\\\" pid=1\" /path/new\\nline.lock");
}

TEST_CASE("a failure of the system is told with operation, words, path and detail") {
  Error error;
  error.code = {ENOSPC, std::system_category()};
  error.operation = "cannot create the lock (linkat)";
  error.path = "/path/x.jsonl.lock";
  CHECK(error.message() == "cannot create the lock (linkat): No space left on device: /path/x.jsonl.lock");
  error.detail = "after 3 tries";
  CHECK(error.message() ==
        "cannot create the lock (linkat): No space left on device: /path/x.jsonl.lock (after 3 tries)");
  error.path = "/path/a\nb";
  error.detail.clear();
  CHECK(error.message() == "cannot create the lock (linkat): No space left on device: /path/a\\nb");
}

TEST_CASE("a failure of this library without a holder is told the same way") {
  Error error;
  error.code = Errc::timed_out;
  error.operation = "release";
  error.path = "/path/x.jsonl.lock";
  error.detail = "pid 77 keeps it busy";
  CHECK(error.message() == "release: timed out: /path/x.jsonl.lock (pid 77 keeps it busy)");
  error = {};
  error.code = Errc::invalid_argument;
  CHECK(error.message() == "invalid argument");
}

TEST_CASE("every code has words of its own") {
  std::set<std::string> words;
  for (const Errc code : k_all) {
    const std::error_code error = code;
    CHECK(error);
    CHECK(error == code);
    CHECK(error.category() == error_category());
    CHECK(error.message().find("unknown") == std::string::npos);
    words.insert(error.message());
  }
  CHECK(words.size() == std::size(k_all));
  CHECK(std::error_code(4711, error_category()).message() == "unknown error 4711");
  CHECK(std::string{error_category().name()} == "sessionlock");
}

TEST_CASE("codes of this library and of the system are never equal") {
  CHECK(std::error_code{Errc::locked} != std::error_code(1, std::system_category()));
  CHECK(std::error_code{Errc::timed_out} != std::make_error_code(std::errc::timed_out));
}

TEST_CASE("an error becomes an exception that tells the same and carries all of it") {
  Result<int> failed = tl::unexpected(contention());
  try {
    static_cast<void>(value_or_throw(std::move(failed)));
    FAIL("nothing was thrown");
  } catch (const std::system_error& caught) {
    CHECK(caught.code() == Errc::timed_out);
    CHECK(std::string{caught.what()} == contention().message());
    const auto& error = dynamic_cast<const LockError&>(caught).error();
    REQUIRE(error.holder);
    CHECK(error.holder->record.pid == 41237);
    CHECK(error.path == "/path/x.jsonl");
  }
}

TEST_CASE("copying the exception cannot throw, and the copy outlives the original") {
  static_assert(std::is_nothrow_copy_constructible_v<LockError>);
  auto original = std::make_unique<LockError>(contention());
  const LockError copy = *original;
  original.reset();
  CHECK(std::string{copy.what()} == contention().message());
  CHECK(copy.error().detail == "timeout 500ms");
}

TEST_CASE("a value comes out of a result as it is, and moves") {
  CHECK(value_or_throw(Result<int>{42}) == 42);
  CHECK(*value_or_throw(Result<std::unique_ptr<int>>{std::make_unique<int>(7)}) == 7);
  CHECK_NOTHROW(value_or_throw(Result<void>{}));
  CHECK_THROWS_AS(value_or_throw(Result<void>{tl::unexpected(contention())}), LockError);
}
