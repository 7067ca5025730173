#include "chaos/judgement.hpp"

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include <sessionlock/lock_manager.hpp>
#include <sessionlock/sweep.hpp>
#include <sessionlock/transcript.hpp>

#include "chaos/actor.hpp"
#include "chaos/bystanders.hpp"
#include "lock_tools.hpp"

namespace sessionlock::test::chaos {
namespace {

namespace fs = std::filesystem;

/// How often each record is in the file.
std::vector<std::uint8_t> count_records(World& world, const fs::path& path, std::uint64_t written) {
  std::vector<std::uint8_t> seen(written);
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    unsigned long long record = 0;
    if (!is_transcript_record(line) || std::sscanf(line.c_str(), "{\"record\":%llu", &record) != 1 ||
        record >= seen.size()) {
      world.complain("a line is torn: " + line);
      continue;
    }
    ++seen[record];
  }
  return seen;
}

/// Makes what killed processes left under temporary names so old that a sweep may remove it.
void age_unfinished(const fs::path& directory) {
  for (const auto& name : names_in(directory)) {
    if (name.ends_with(".tmp") && !Bystanders::is_name(name)) {
      fs::last_write_time(directory / name, fs::file_time_type::clock::now() - std::chrono::hours{1});
    }
  }
}

}  // namespace

void judge_session(World& world, const fs::path& directory, std::size_t number) {
  const fs::path path = session_path(directory, number);
  AcquireOptions options;
  options.stale.malformed_grace = k_grace;
  options.timeout = k_bound;
  auto lock = LockManager().acquire(path, options);
  if (!lock) {
    world.complain("at the end it cannot be acquired: " + lock.error().message());
    return;
  }
  const SharedSession& at = world.sessions[number];
  const auto seen = count_records(world, path, at.record_count());
  for (std::uint64_t record = 0; record < seen.size(); ++record) {
    const bool acknowledged = at.was_acknowledged(record);
    // One that is neither was being written when its process was killed.
    const int most = at.has_failed(record) ? 0 : 1;
    if (acknowledged ? seen[record] != 1 : seen[record] > most) {
      world.complain("record " + std::to_string(record) + " of session " + std::to_string(number) + " was " +
                     (acknowledged ? "acknowledged" : "not acknowledged") + " and is there " +
                     std::to_string(seen[record]) + " times");
    }
  }
  (void)lock->release();
}

void judge_directory(World& world, const fs::path& directory) {
  age_unfinished(directory);
  (void)sweep(directory);
  for (const auto& name : names_in(directory)) {
    const bool is_session = name.ends_with(".jsonl") || name.ends_with(".torn");
    // What processes left that were killed, and that only they or others of their kind take away.
    const bool is_of_actors = name == "prepared" || name == "daemon.pid" || name == "work.gate" ||
                              name == "marker.sentinel" || name.starts_with("closer-") || name.starts_with("own-");
    if (!is_session && !is_of_actors && !Bystanders::is_name(name)) {
      world.complain("left behind: " + name);
    }
  }
}

}  // namespace sessionlock::test::chaos
