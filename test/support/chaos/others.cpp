#include "chaos/others.hpp"

#include <chrono>
#include <filesystem>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sessionlock/sweep.hpp>

#include "chaos/bystanders.hpp"
#include "lock_tools.hpp"
#include "process.hpp"
#include "protocol/temporary_name.hpp"

namespace sessionlock::test::chaos {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

Foreigner::Foreigner(const Stage& stage) : Actor(stage), start_(start_of(::getpid())) {}

void Foreigner::act() {
  const std::size_t number = any(k_foreign_sessions);
  const fs::path path = lock_of(number);
  if (!lock(path)) {
    pause(500us);
    return;
  }
  ++figures().foreign_acquisitions;
  Section& section = world().sessions[number].section;
  world().enter(section, token());
  pause(1000us);
  world().leave(section, token());
  ::unlink(path.c_str());
  pause(5000us);
}

bool Foreigner::lock(const std::string& path) {
  const std::string text = foreign_record(::getpid(), start_);
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR);
  if (fd < 0) {
    return false;
  }
  pause(300us);
  const bool written = ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  // Not its own any more if this took longer than the grace.
  struct stat status {};
  const bool is_its_own = ::fstat(fd, &status) == 0 && inode_of(path) == status.st_ino;
  ::close(fd);
  return written && is_its_own;
}

void Sweeper::act() {
  SweepOptions options;
  options.stale.malformed_grace = k_grace;
  const auto report = sweep(directory(), options);
  ++figures().sweeps;
  if (!report) {
    world().complain("sweep: " + report.error().message());
    return;
  }
  figures().swept += report->removed.size();
  for (const auto& error : report->errors) {
    judge_error(error);
  }
  pause(10'000us);
}

/// What is no lock is left in place and told of; so is what may not be read.
void Sweeper::judge_error(const Error& error) const {
  const bool is_bystander = Bystanders::is_name(error.path.filename().native());
  const bool is_obstacle =
      world().has_neighbour && (error.code == Errc::not_a_lock_file || error.code == std::errc::permission_denied ||
                                error.code == std::errc::resource_unavailable_try_again);
  if (is_bystander ? error.code != Errc::not_a_lock_file : !is_obstacle) {
    world().complain("sweep: " + error.message());
  }
}

void Forcer::act() {
  const fs::path path = session(any(k_sessions));
  const auto found = manager_.inspect(path);
  if (found && found->state == LockState::held && found->record.lock_id) {
    world().remember_forced(*found->record.lock_id);
    figures().forced += manager_.force_release(path, *found->record.lock_id, true) ? 1U : 0U;
  }
  pause(10'000us);
}

std::string Planter::dead_lock(const FileIdentity& file) {
  LockRecord record = own_record();
  switch (any(7)) {
    case 0:
      return "";
    case 1:
      return "{\"pid\": 12";
    case 2:
      return std::string(100, '\0');  // as a power cut leaves one
    case 3:
      record.pid = 1;
      record.starttime = *record.starttime + 1'000'000;
      return format_lock_record(record);
    case 4:
      return foreign_record(1, "1");
    case 5:
      record.pid_namespace = *record.pid_namespace + 1;
      record.witness = format_witness({WitnessForm::ofd2, file});
      return format_lock_record(record);
    default:  // without a witness nothing would prove that this file system was not another machine's
      record.boot_id = "00000000-0000-4000-8000-000000000000";
      record.witness = format_witness({WitnessForm::ofd2, file});
      return format_lock_record(record);
  }
}

void Planter::act() {
  const std::size_t number = any(k_sessions);
  const fs::path prepared = directory() / "prepared";
  fs::remove(prepared);
  plant(prepared, "");
  struct stat status {};
  if (::stat(prepared.c_str(), &status) != 0) {
    return;
  }
  write_text(prepared, dead_lock({status.st_dev, status.st_ino}));
  const bool is_temporary = in_one_of(4);
  if (is_temporary || !in_one_of(20)) {
    make_older(prepared, 24h * 365 * 20);  // dead at once; otherwise it may be a lock that is being written
  }
  if (is_temporary) {
    fs::rename(prepared, directory() / temporary_name(std::to_string(number) + ".jsonl.lock", std::string(32, 'a')));
  } else {
    for (int i = 0; i < 200 && !world().is_over.load(); ++i) {
      if (::link(prepared.c_str(), lock_of(number).c_str()) == 0) {
        ++figures().planted;
        break;
      }
    }
  }
  fs::remove(prepared);
  pause(40'000us);
}

}  // namespace sessionlock::test::chaos
