#include "chaos/bystanders.hpp"

#include <chrono>
#include <ctime>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>

#include <sessionlock/pid_file.hpp>
#include <sessionlock/spawn_gate.hpp>
#include <sessionlock/sweep.hpp>

#include "process.hpp"

namespace sessionlock::test::chaos {
namespace {

using namespace std::chrono_literals;
using namespace std::string_literals;
namespace fs = std::filesystem;

constexpr std::string_view k_prefix = "kept-";

std::vector<std::string> contents() {
  return {"version = 3\n\n[[package]]\nname = \"serde\"\nversion = \"1.0.200\"\n",
          "{\"name\": \"site\", \"lockfileVersion\": 3, \"packages\": {}}\n",
          "{\"type\": \"user\", \"text\": \"hello\"}\n{\"type\": \"assistant\", \"text\": \"hello\"}\n",
          "[1, 2, 3]\n",
          "Remember to buy milk.\n",
          "\"a string\"\n",
          "SQLite format 3\0\x10\0\x01\x01\0"s + std::string(500, '\x05'),
          std::string(100'000, 'p')};
}

/// How long ago a file was modified.
const std::vector<std::chrono::seconds>& ages() {
  static const std::vector<std::chrono::seconds> ages{0s, 1h, 20 * 365 * 24h, -2h};
  return ages;
}

/// What a name ends in, by what it may be taken for.
const std::vector<std::string>& endings() {
  static const std::vector<std::string> endings{".jsonl.lock", ".lock", ".pid", ".gate", ".sentinel"};
  return endings;
}

const std::vector<std::string>& almost_temporary() {
  static const std::vector<std::string> names{
      ".kept-0.jsonl.lock.tmp", ".kept-0.jsonl.lock." + std::string(31, 'a') + ".tmp",
      ".kept-0.jsonl.lock." + std::string(32, 'g') + ".tmp", ".kept-0.jsonl.lock." + std::string(32, 'a') + ".tmp.orig",
      "kept-0.jsonl.lock." + std::string(32, 'a') + ".tmp"};
  return names;
}

}  // namespace

Bystanders::Bystanders(const fs::path& directory, std::time_t now) {
  const auto texts = contents();
  for (const std::string& ending : endings()) {
    for (std::size_t content = 0; content < texts.size(); ++content) {
      // Each content in each age as a session's lock, the others in one age each.
      for (std::size_t age = 0; age < ages().size(); ++age) {
        if (ending == endings().front() || age == content % ages().size()) {
          files_.push_back(
              {directory / (std::string(k_prefix) + std::to_string(content) + '-' + std::to_string(age) + ending),
               texts[content], now - ages()[age].count()});
        }
      }
    }
  }
  for (const std::string& name : almost_temporary()) {
    files_.push_back({directory / name, texts.front(), now - ages()[2].count()});
  }
}

bool Bystanders::is_name(std::string_view name) {
  return name.starts_with(k_prefix) || name.starts_with("." + std::string(k_prefix));
}

void Bystanders::plant(const File& file) {
  write_text(file.path, file.content);
  const struct timespec times[2] = {{file.modified, 0}, {file.modified, 0}};
  if (::utimensat(AT_FDCWD, file.path.c_str(), times, 0) != 0) {
    throw std::system_error(errno, std::system_category(), file.path);
  }
}

void Bystanders::plant() const {
  for (const File& file : files_) {
    plant(file);
  }
}

bool Bystanders::is_kept(const File& file) {
  struct stat status {};
  return ::lstat(file.path.c_str(), &status) == 0 && S_ISREG(status.st_mode) && status.st_nlink == 1 &&
         status.st_mtim.tv_sec == file.modified && read_text(file.path) == file.content;
}

void Bystanders::check(World& world, std::size_t number, std::string_view call) const {
  if (!is_kept(files_[number])) {
    ++world.figures.bystanders_hurt;
    world.complain("no lock, but deleted or changed by " + std::string(call) + ": " +
                   files_[number].path.filename().string());
    plant(files_[number]);
  }
}

void Bystanders::check(World& world) const {
  for (std::size_t number = 0; number < files_.size(); ++number) {
    check(world, number, "something");
  }
}

fs::path marker_path(const fs::path& directory) {
  return directory / "marker.sentinel";
}

Visitor::Visitor(const Stage& stage)
    : Actor(stage),
      bystanders_(stage.directory, stage.world.began),
      manager_(manager_options()),
      marker_(marker_path(stage.directory)) {}

void Visitor::act() {
  if (in_one_of(20)) {
    sweep_all();
    bystanders_.check(world(), any(bystanders_.size()), "a sweep");
  } else {
    const std::size_t number = any(bystanders_.size());
    bystanders_.check(world(), number, visit(bystanders_.path(number)));
  }
  ++figures().visits;
  keep_marker();
  pause(1000us);
}

std::string_view Visitor::visit(const fs::path& path) {
  const std::string name = path.filename();
  if (name.ends_with(".jsonl.lock")) {
    return take_for_session(path);
  }
  if (name.ends_with(".pid")) {
    return take_for_pid_file(path);
  }
  return name.ends_with(".sentinel") ? take_for_sentinel(path) : take_for_gate(path);
}

template <class T>
void Visitor::expect_refusal(const Result<T>& result, const fs::path& path) {
  const std::string name = path.filename();
  if (result) {
    world().complain("taken for what it is not: " + name);
  } else if (result.error().code != Errc::not_a_lock_file) {
    world().complain("no lock, and not refused as such: " + name + ": " + result.error().message());
  }
}

std::string_view Visitor::take_for_session(const fs::path& lock) {
  const fs::path path = fs::path(lock).replace_extension();
  switch (any(4)) {
    case 0:
      expect_refusal(manager_.acquire(path, acquire_options(in_one_of(2) ? 0ms : 20ms)), lock);
      return "acquire";
    case 1:
      (void)manager_.wait_until_free(path, acquire_options(1ms));
      return "wait_until_free";
    case 2:
      (void)manager_.inspect(path);
      return "inspect";
    default:
      (void)manager_.force_release(path, "1", true);
      return "force_release";
  }
}

std::string_view Visitor::take_for_gate(const fs::path& path) {
  SpawnGate gate(path);
  if (in_one_of(2)) {
    (void)gate.wait_until_done(1ms);
    return "wait_until_done";
  }
  expect_refusal(gate.try_enter(), path);
  return "try_enter";
}

std::string_view Visitor::take_for_pid_file(const fs::path& path) {
  PidFileOptions options;
  options.timeout = 1ms;
  switch (any(3)) {
    case 0:
      expect_refusal(PidFile::claim(path, options), path);
      return "claim";
    case 1:
      expect_refusal(remove_pid_file(path, RemoveWhose::own_or_stale), path);
      return "remove_pid_file";
    default:
      (void)inspect_pid_file(path);
      return "inspect_pid_file";
  }
}

std::string_view Visitor::take_for_sentinel(const fs::path& path) {
  const Sentinel sentinel(path);
  switch (any(3)) {
    case 0:
      expect_refusal(sentinel.set(1s), path);
      return "set";
    case 1:
      expect_refusal(sentinel.clear(), path);
      return "clear";
    default:
      (void)sentinel.active();
      return "active";
  }
}

/// As `sessionlock clean --suffix .lock` does.
void Visitor::sweep_all() {
  SweepOptions options;
  options.stale.malformed_grace = k_grace;
  options.suffix = in_one_of(2) ? ".lock" : ".jsonl.lock";
  (void)sweep(directory(), options);
}

void Visitor::keep_marker() {
  const auto active = marker_.active();
  if (has_marker_ && (!active || !*active)) {
    world().complain("a sentinel was gone before its time");
  }
  if (!has_marker_ || in_one_of(50)) {
    has_marker_ = marker_.set(60s).has_value();
  }
}

}  // namespace sessionlock::test::chaos
