#include "process/portable/ps_start_token.hpp"

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

#include <doctest/doctest.h>
#include <unistd.h>

#include <sessionlock/process_identity.hpp>

#include "process.hpp"

using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;

namespace {

bool has_ps() {
  const bool there = std::filesystem::exists("/bin/ps") || std::filesystem::exists("/usr/bin/ps");
  if (!there) {
    skip_aloud("there is no ps(1) here");
  }
  return there;
}

std::string script(const TemporaryDirectory& directory, const std::string& text) {
  const auto path = directory / "ps";
  write_text(path, "#!/bin/sh\n" + text);
  std::filesystem::permissions(path, std::filesystem::perms::owner_all);
  return path;
}

}  // namespace

TEST_CASE("the start token of any process is an opaque text on Linux: its start time") {
  CHECK(process_start_token(::getpid()) == std::to_string(process_start_time(::getpid()).value()));
  CHECK_FALSE(process_start_token(0));
  CHECK_FALSE(process_start_token(-1));
  CHECK_FALSE(process_start_token(2'000'000'000));
}

TEST_CASE("what ps prints of a start is taken word by word, and nothing else is a token") {
  CHECK(parse_lstart("Fri Nov 20 03:31:48 2026\n") == "Fri Nov 20 03:31:48 2026");
  CHECK(parse_lstart("  Sun Nov  1 03:31:48 2026  \n") == "Sun Nov 1 03:31:48 2026");
  for (const char* text :
       {"", "\n", "STARTED\n", "Fr Nov 20 03:31:48 2026", "Fri Okt 20 03:31:48 2026", "Fri Nov 20 03:31 2026",
        "Fri Nov 20 03:31:48 26", "Fri Nov 20 03:31:48 2026 UTC", "20 Nov 2026 03:31:48", "Fri Nov x 03:31:48 2026",
        "Fri Nov / 03:31:48 2026", "Fri Nov 2: 03:31:48 2026"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_lstart(text));
  }
}

TEST_CASE("ps gives every living process a token and a dead one none") {
  if (!has_ps()) {
    return;
  }
  CHECK(ps_start_token(::getpid()));
  CHECK_FALSE(ps_start_token(0));
  CHECK_FALSE(ps_start_token(2'000'000'000));
}

TEST_CASE("two locales and two time zones give the same token") {
  if (!has_ps()) {
    return;
  }
  const auto plain = ps_start_token(::getpid());
  REQUIRE(plain);
  auto elsewhere = ChildProcess::run([pid = ::getpid(), plain](Channel&) {
    ::setenv("LC_ALL", "de_DE.UTF-8", 1);
    ::setenv("LC_TIME", "de_DE.UTF-8", 1);
    ::setenv("TZ", "Pacific/Kiritimati", 1);
    REQUIRE_IN_CHILD(ps_start_token(pid) == plain);
    return 0;
  });
  CHECK(elsewhere.wait().exited_with(0));
}

TEST_CASE("ps is told the C locale, UTC and the one pid") {
  const TemporaryDirectory directory;
  const auto told = directory / "told";
  const std::string fake =
      script(directory, "echo \"$LC_ALL $TZ $*\" > " + told.string() + "\necho Fri Nov 20 03:31:48 2026\n");
  CHECK(ps_start_token(41237, {fake.c_str(), k_patience}) == "Fri Nov 20 03:31:48 2026");
  CHECK(read_text(told) == "C UTC -p 41237 -o lstart=\n");
}

TEST_CASE("a ps that hangs costs its time limit and gives no token") {
  const TemporaryDirectory directory;
  const std::string silent = script(directory, "exec sleep 1000\n");
  CHECK_FALSE(ps_start_token(::getpid(), {silent.c_str(), 20ms}));
  const std::string lingering = script(directory, "echo Fri Nov 20 03:31:48 2026\nexec sleep 1000 >&-\n");
  CHECK_FALSE(ps_start_token(::getpid(), {lingering.c_str(), 200ms}));
}

TEST_CASE("a ps that is missing, or floods us, gives no token") {
  const TemporaryDirectory directory;
  CHECK_FALSE(ps_start_token(::getpid(), {(directory / "none").c_str(), k_patience}));
  const std::string flood = script(directory, "exec yes Fri Nov 20 03:31:48 2026\n");
  CHECK_FALSE(ps_start_token(::getpid(), {flood.c_str(), k_patience}));
}

TEST_CASE("a ps whose output ends before it does gives a token, once it has ended") {
  const TemporaryDirectory directory;
  const std::string silent_end = script(directory, "echo Fri Nov 20 03:31:48 2026\nexec >&-\nsleep 0.02\n");
  CHECK(ps_start_token(::getpid(), {silent_end.c_str(), k_patience}) == "Fri Nov 20 03:31:48 2026");
}

TEST_CASE("without a PATH ps is looked for where the system has its programs") {
  if (!has_ps()) {
    return;
  }
  const auto plain = ps_start_token(::getpid());
  auto elsewhere = ChildProcess::run([pid = ::getpid(), plain](Channel&) {
    ::unsetenv("PATH");
    REQUIRE_IN_CHILD(ps_start_token(pid) == plain);
    return 0;
  });
  CHECK(elsewhere.wait().exited_with(0));
}

TEST_CASE("no token is not remembered") {
  CHECK_FALSE(remembered_ps_start_token(2'000'000'000));
  CHECK_FALSE(remembered_ps_start_token(2'000'000'000));
}

TEST_CASE("only so many answers of ps are remembered, the newest among them") {
  StartTokenMemory memory;
  const auto now = std::chrono::steady_clock::now();
  constexpr pid_t k_many = 10'000;
  pid_t remembered = 0;
  for (pid_t pid = 1; pid <= k_many; ++pid) {
    memory.store(pid, "token", now);
    CHECK(memory.find(pid, now) == "token");
  }
  for (pid_t pid = 1; pid <= k_many; ++pid) {
    remembered += memory.find(pid, now) ? 1 : 0;
  }
  CHECK(remembered > 0);
  CHECK(remembered <= 256);
}

TEST_CASE("an answer of ps is remembered for a moment only") {
  StartTokenMemory memory;
  const auto now = std::chrono::steady_clock::now();
  CHECK_FALSE(memory.find(7, now));
  memory.store(7, "token", now);
  CHECK(memory.find(7, now) == "token");
  CHECK_FALSE(memory.find(8, now));
  CHECK_FALSE(memory.find(7, now + k_start_token_memory));
  if (has_ps()) {
    CHECK(remembered_ps_start_token(::getpid()) == ps_start_token(::getpid()));
    CHECK(remembered_ps_start_token(::getpid()) == ps_start_token(::getpid()));
  }
}
