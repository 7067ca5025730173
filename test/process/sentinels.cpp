// Stopping sentinels on real files and by the real clock.

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sessionlock/sentinel.hpp>

#include "claims/sentinel.hpp"
#include "lock_tools.hpp"
#include "process.hpp"
#include "script.hpp"

using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;
using std::chrono::milliseconds;

namespace {

std::string expiring_in(milliseconds left) {
  return std::to_string((sys::wall_clock() + left).time_since_epoch().count());
}

const WallTime k_now{milliseconds{1'800'000'000'000}};
std::string at(milliseconds left) {
  return std::to_string((k_now + left).time_since_epoch().count());
}

}  // namespace

TEST_CASE("a sentinel stands from set to clear, and says when it ends") {
  const TemporaryDirectory directory;
  const Sentinel sentinel(directory / "stopping");
  CHECK_FALSE(sentinel.active().value());
  const auto before = sys::wall_clock();
  REQUIRE(sentinel.set(1h));
  CHECK(sentinel.active().value());
  const auto expiry = parse_sentinel(read_text(sentinel.path()));
  REQUIRE(expiry);
  CHECK(*expiry >= before + 1h);
  CHECK(*expiry <= sys::wall_clock() + 1h);
  CHECK(sentinel.clear().has_value());
  CHECK_FALSE(sentinel.active().value());
  CHECK(sentinel.clear().has_value());
  CHECK(names_in(directory.path()).empty());
}

TEST_CASE("set replaces a sentinel that stands, atomically") {
  const TemporaryDirectory directory;
  const Sentinel sentinel(directory / "stopping");
  REQUIRE(sentinel.set(1h));
  std::atomic<bool> over{false};
  int absent = 0;
  std::thread reader([&] {
    while (!over) {
      absent += sentinel.active().value() ? 0 : 1;
    }
  });
  for (int i = 0; i < 200; ++i) {
    CHECK(sentinel.set(2h).has_value());
  }
  over = true;
  reader.join();
  CHECK(absent == 0);
  CHECK(names_in(directory.path()).size() == 1);
}

TEST_CASE("a sentinel is replaced, however long its name is") {
  // Protects: `part_of` in temporary_name.cpp.
  const TemporaryDirectory directory;
  const Sentinel sentinel(directory / std::string(255, 's'));
  for (int i = 0; i < 2; ++i) {
    const auto set = sentinel.set(1h);
    CHECK_MESSAGE(set.has_value(), (set ? "" : set.error().message()));
  }
}

TEST_CASE("a corrupt, empty or expired sentinel is absent and removed") {
  const TemporaryDirectory directory;
  const Sentinel sentinel(directory / "stopping");
  for (const std::string& text :
       {std::string(), std::string("\n"), expiring_in(1h) + " ", expiring_in(1h) + "\n\n",
        " " + expiring_in(1h) + "\r\n", "1 " + expiring_in(1h), std::string("99999999999999999999"),
        std::string("9223372036854775807"), expiring_in(-1min), std::string("0"), std::string(32, '1'),
        std::string("\0\0", 2), expiring_in(24h * 400)}) {
    CAPTURE(text);
    write_text(sentinel.path(), text);
    CHECK_FALSE(sentinel.active().value());
    CHECK_FALSE(std::filesystem::exists(sentinel.path()));
  }
}

TEST_CASE("what is no sentinel is absent, and is neither removed nor replaced at any age") {
  const TemporaryDirectory directory;
  const Sentinel sentinel(directory / "Cargo.lock");
  for (const std::string& text :
       {std::string("soon"), std::string("-5"), std::string("1e99"), "+" + expiring_in(1h), expiring_in(-1h) + ".5",
        std::string(33, '1'), std::string(33, ' '), std::string(100'000, '1'), std::string("{\"a\":1}\n")}) {
    CAPTURE(text.substr(0, 40));
    write_text(sentinel.path(), text);
    make_older(sentinel.path(), 24h * 365);
    CHECK_FALSE(sentinel.active().value());
    for (const auto& refused : {sentinel.set(1h), sentinel.clear(), sentinel.set(0ms)}) {
      REQUIRE_FALSE(refused);
      CHECK(refused.error().code == Errc::not_a_lock_file);
      CHECK(refused.error().path == sentinel.path());
    }
    CHECK(read_text(sentinel.path()) == text);
    CHECK(names_in(directory.path()).size() == 1);
  }
}

TEST_CASE("a sentinel that becomes something else while it is removed or replaced stays") {
  const TemporaryDirectory directory;
  const Sentinel sentinel(directory / "stopping");
  const auto check_spared = [&](const std::function<bool()>& action) {
    write_text(sentinel.path(), expiring_in(-1h));
    bool written = false;
    const Script script(outermost([&](const sys::CallInfo& info) {
      if (info.call == sys::Call::flock && !std::exchange(written, true)) {
        write_text(sentinel.path(), "no sentinel");
      }
      return 0;
    }));
    CHECK(action());
    CHECK(written);
    CHECK(read_text(sentinel.path()) == "no sentinel");
    CHECK(names_in(directory.path()).size() == 1);
  };
  check_spared([&] { return !sentinel.active().value(); });
  check_spared([&] { return sentinel.clear().error().code == Errc::not_a_lock_file; });
  check_spared([&] { return sentinel.set(1h).error().code == Errc::not_a_lock_file; });
}

TEST_CASE("an expired sentinel stays where its file system's clock cannot be asked") {
  const TemporaryDirectory directory;
  const Sentinel sentinel(directory / "stopping");
  write_text(sentinel.path(), expiring_in(-1h));
  {
    const Script no_clock(
        [](const sys::CallInfo& info) { return is_call_on(info, sys::Call::openat, ".") ? EROFS : 0; });
    CHECK_FALSE(sentinel.active().value());
  }
  CHECK(read_text(sentinel.path()) != "");
  CHECK_FALSE(sentinel.active().value());
  CHECK_FALSE(std::filesystem::exists(sentinel.path()));
}

TEST_CASE("what a killed set left is removed by the next set or clear, and nothing else is") {
  const std::string id(32, 'a');
  for (const bool sets : {true, false}) {
    const TemporaryDirectory directory;
    const Sentinel sentinel(directory / "stopping");
    REQUIRE(sentinel.set(1h));
    auto child = ChildProcess::run([&](Channel&) {
      const Script killed([](const sys::CallInfo& info) {
        if (info.call == sys::Call::renameat2) {
          ::raise(SIGKILL);
        }
        return 0;
      });
      return sentinel.set(2h) ? 0 : 1;
    });
    CHECK(child.wait().killed_by(SIGKILL));
    REQUIRE(names_in(directory.path()).size() == 2);
    REQUIRE(sentinel.set(1h));
    CHECK(names_in(directory.path()).size() == 2);  // it may belong to a set that goes on
    for (const auto& entry : std::filesystem::directory_iterator(directory.path())) {
      if (entry.path().filename() != "stopping") {
        make_older(entry.path(), 11min);
      }
    }
    for (const std::string& other :
         {".another." + id + ".tmp", ".stopping." + id + ".tm", std::string(".stopping.x.tmp")}) {
      write_text(directory / other, "");
      make_older(directory / other, 11min);
    }
    REQUIRE((sets ? sentinel.set(1h) : sentinel.clear()));
    CHECK(names_in(directory.path()).size() == (sets ? 4 : 3));
  }
}

TEST_CASE("a file under the name of what a killed set left stays if it holds no sentinel, or is locked") {
  const TemporaryDirectory directory;
  const Sentinel sentinel(directory / "stopping");
  const auto stranger = directory / (".stopping." + std::string(32, 'a') + ".tmp");
  const auto locked = directory / (".stopping." + std::string(32, 'b') + ".tmp");
  write_text(stranger, "words");
  write_text(locked, "");
  make_older(stranger, 24h);
  make_older(locked, 24h);
  const int other = ::open(locked.c_str(), O_RDONLY | O_CLOEXEC);
  REQUIRE(::flock(other, LOCK_EX | LOCK_NB) == 0);
  REQUIRE(sentinel.set(1h));
  CHECK(std::filesystem::exists(stranger));
  CHECK(std::filesystem::exists(locked));
  ::close(other);
  REQUIRE(sentinel.clear());
  CHECK(std::filesystem::exists(stranger));
  CHECK_FALSE(std::filesystem::exists(locked));
}

TEST_CASE("a sentinel stands with and without a newline") {
  const TemporaryDirectory directory;
  const Sentinel sentinel(directory / "stopping");
  for (const std::string& text : {expiring_in(1h), expiring_in(1h) + "\n"}) {
    write_text(sentinel.path(), text);
    CHECK(sentinel.active().value());
  }
}

TEST_CASE("zero and negative times to live clear, and more than a year is refused") {
  const TemporaryDirectory directory;
  const Sentinel sentinel(directory / "stopping");
  for (const milliseconds ttl : {0ms, -1ms, milliseconds::min()}) {
    REQUIRE(sentinel.set(1h));
    CHECK(sentinel.set(ttl).has_value());
    CHECK_FALSE(std::filesystem::exists(sentinel.path()));
  }
  CHECK(sentinel.set(k_sentinel_ttl_max).has_value());
  CHECK(sentinel.active().value());
  CHECK(sentinel.set(k_sentinel_ttl_max + 1ms).error().code == Errc::invalid_argument);
  CHECK(sentinel.set(milliseconds::max()).error().code == Errc::invalid_argument);
}

TEST_CASE("a sentinel ends exactly at its expiry") {
  CHECK(sentinel_is_active(at(1ms), k_now, k_now));
  CHECK_FALSE(sentinel_is_active(at(0ms), k_now - 30s, k_now));
  CHECK_FALSE(sentinel_is_active(at(-1ms), k_now - 30s, k_now));
}

TEST_CASE("a clock that is set back lets a sentinel stand for twice its time at most") {
  // Set for 30 s at a time that now lies ahead.
  CHECK(sentinel_is_active(at(30s), k_now, k_now));
  CHECK(sentinel_is_active(at(60s), k_now + 30s, k_now));
  CHECK_FALSE(sentinel_is_active(at(61s), k_now + 31s, k_now));
  CHECK_FALSE(sentinel_is_active(at(1ms), k_now + 1ms, k_now));  // was not meant to stand at all
  CHECK_FALSE(sentinel_is_active(at(24h + 30s), k_now + 24h, k_now));
  // Written after it had expired.
  CHECK_FALSE(sentinel_is_active(at(1h), k_now + 2h, k_now));
}

TEST_CASE("a sentinel has ended once both this machine's and its file system's clock say so") {
  CHECK(sentinel_has_ended(at(0ms), k_now - 30s, k_now, k_now));
  CHECK_FALSE(sentinel_has_ended(at(1ms), k_now - 30s, k_now, k_now + 1h));
  CHECK_FALSE(sentinel_has_ended(at(0ms), k_now - 30s, k_now, k_now - 1ms));
  CHECK_FALSE(sentinel_has_ended(at(0ms), k_now - 30s, k_now, std::nullopt));
  CHECK(sentinel_has_ended("", k_now, k_now, k_now));
  CHECK_FALSE(sentinel_has_ended("soon", k_now, k_now, k_now));
}

TEST_CASE("whoever finds a sentinel expired never removes one that was set meanwhile") {
  const TemporaryDirectory directory;
  const Sentinel sentinel(directory / "stopping");
  write_text(sentinel.path(), expiring_in(-1h));
  bool set = false;
  const Script script(outermost([&](const sys::CallInfo& info) {
    if (info.call == sys::Call::flock && !set) {
      set = true;
      CHECK(sentinel.set(1h).has_value());
    }
    return 0;
  }));
  CHECK(sentinel.active().value());
  CHECK(set);
  CHECK(std::filesystem::exists(sentinel.path()));
}

TEST_CASE("a sentinel that is replaced at every look ends the question with an error, and stays") {
  const TemporaryDirectory directory;
  const Sentinel sentinel(directory / "stopping");
  write_text(sentinel.path(), expiring_in(-1h));
  const Script script(outermost([&](const sys::CallInfo& info) {
    if (info.call == sys::Call::flock) {
      write_text(directory / "next", expiring_in(-1h));
      std::filesystem::rename(directory / "next", sentinel.path());
    }
    return 0;
  }));
  const auto active = sentinel.active();
  REQUIRE_FALSE(active);
  CHECK(active.error().code == Errc::timed_out);
  CHECK(active.error().path == sentinel.path());
  CHECK(std::filesystem::exists(sentinel.path()));
}

TEST_CASE("what is no regular file is an error, and stays") {
  for (const StrangeNode& node : strange_nodes()) {
    CAPTURE(node.words);
    const TemporaryDirectory directory;
    const Sentinel sentinel(directory / "stopping");
    node.make(sentinel.path());
    const auto before = names_in(directory.path());
    for (const auto& error : {sentinel.active().error(), sentinel.set(1h).error(), sentinel.clear().error()}) {
      CHECK(error.code == Errc::not_a_lock_file);
      CHECK(error.message().find(node.words) != std::string::npos);
    }
    CHECK(names_in(directory.path()) == before);
  }
}

TEST_CASE("a sentinel whose directory is missing does not stand, and cannot be set") {
  const TemporaryDirectory directory;
  CHECK_FALSE(Sentinel(directory / "none" / "stopping").active().value());
  CHECK(Sentinel(directory / "none" / "stopping").clear().has_value());
  CHECK(Sentinel(directory / "none" / "stopping").set(1h).error().code == std::errc::no_such_file_or_directory);
}

TEST_CASE("a set that fails leaves what was there, and nothing else") {
  const TemporaryDirectory directory;
  const Sentinel sentinel(directory / "stopping");
  REQUIRE(sentinel.set(1h));
  const std::string before = read_text(sentinel.path());
  for (const auto call : {sys::Call::write, sys::Call::renameat2}) {
    const Script full(failing(call, ENOSPC));
    CHECK(sentinel.set(2h).error().code == std::errc::no_space_on_device);
    CHECK(read_text(sentinel.path()) == before);
    CHECK(names_in(directory.path()).size() == 1);
  }
}

TEST_CASE("a sentinel that is cleared while it is set again stands") {
  const TemporaryDirectory directory;
  const Sentinel sentinel(directory / "stopping");
  REQUIRE(sentinel.set(1h));
  bool is_cleared = false;
  {
    const Script script([&](const sys::CallInfo& info) {
      if (is_call_on(info, sys::Call::openat, "stopping") && !is_cleared) {
        is_cleared = std::filesystem::remove(directory / "stopping");
      }
      return 0;
    });
    CHECK(sentinel.set(2h).has_value());
  }
  CHECK(is_cleared);
  CHECK(sentinel.active().value());
  CHECK(names_in(directory.path()) == std::vector<std::string>{"stopping"});
}

TEST_CASE("a sentinel that is made to stand longer while it is looked at is not removed") {
  const TemporaryDirectory directory;
  const Sentinel sentinel(directory / "stopping");
  write_text(sentinel.path(), expiring_in(-1h));
  {
    bool is_rewritten = false;
    const Script script([&](const sys::CallInfo& info) {
      if (info.call == sys::Call::flock && !std::exchange(is_rewritten, true)) {
        write_text(sentinel.path(), expiring_in(1h));
      }
      return 0;
    });
    CHECK(sentinel.active().has_value());
    CHECK(is_rewritten);
  }
  CHECK(sentinel.active().value());
}

TEST_CASE("without random numbers no sentinel is set") {
  const TemporaryDirectory directory;
  auto child = ChildProcess::run([&](Channel&) {  // which has asked for none yet
    const Script script(failing(sys::Call::getrandom, EIO));
    const auto set = Sentinel(directory / "stopping").set(1h);
    REQUIRE_IN_CHILD(!set && set.error().code == std::errc::io_error);
    return 0;
  });
  CHECK(child.wait().exited_with(0));
  CHECK(names_in(directory.path()).empty());
}

TEST_CASE("a sentinel's path that names no file is refused") {
  for (const char* path : {"", ".", "..", "/", "/tmp/.."}) {
    CAPTURE(path);
    CHECK(Sentinel(path).set(1h).error().code == Errc::invalid_argument);
    CHECK(Sentinel(path).active().error().code == Errc::invalid_argument);
    CHECK(Sentinel(path).clear().error().code == Errc::invalid_argument);
  }
}
