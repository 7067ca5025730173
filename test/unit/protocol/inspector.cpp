#include "protocol/inspector.hpp"

#include <chrono>
#include <thread>

#include <doctest/doctest.h>

using namespace sessionlock;
using namespace std::chrono_literals;

namespace {

PinnedInode inode(std::uint64_t number, WallTime modified) {
  PinnedInode pinned;
  pinned.file = {1, number};
  pinned.modified = modified;
  return pinned;
}

}  // namespace

TEST_CASE("the time for which a file was seen unchanged begins with the first look, and anew with every change") {
  const WallTime time{1h};
  UnchangedTime unchanged;
  CHECK(unchanged.of(inode(7, time)) == 0ms);
  std::this_thread::sleep_for(2ms);
  CHECK(unchanged.of(inode(7, time)) >= 2ms);
  CHECK(unchanged.of(inode(7, time + 1ms)) == 0ms);
  std::this_thread::sleep_for(2ms);
  CHECK(unchanged.of(inode(7, time + 1ms)) >= 2ms);
  CHECK(unchanged.of(inode(8, time + 1ms)) == 0ms);
}
