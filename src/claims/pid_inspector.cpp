#include "claims/pid_inspector.hpp"

#include <utility>

#include <sessionlock/process_identity.hpp>

#include "claims/pid_record.hpp"
#include "claims/pid_verdict.hpp"
#include "system/file_status.hpp"

namespace sessionlock {
namespace {

PidFileEvidence gather(const PidText& text, const PinnedFile& pinned, const Place& place) {
  PidFileEvidence evidence;
  if (const auto pid = text.record.pid ? text.record.pid : text.record.digits_pid) {
    // The token first: one that cannot be read because its process is just ending is then a dead process's.
    evidence.token = process_start_token(*pid);
    evidence.liveness = process_liveness(*pid);
  }
  if (text.form != PidTextForm::record) {
    evidence.file_age =
        age_of(pinned.modified, file_system_clock(place.directory->fd.get()).value_or(sys::wall_clock()));
  }
  return evidence;
}

}  // namespace

Result<std::optional<PinnedFile>> pin_pid_file(const Place& place) {
  auto pinned = pin_file(place);
  if (pinned && *pinned && !(*pinned)->content) {
    return failure((*pinned)->content.error(), "read PID file", place);
  }
  if (pinned && *pinned && (*pinned)->content->too_long) {
    return failure(Errc::not_a_lock_file, "read PID file", place, "it is longer than any PID file");
  }
  return pinned;
}

Result<PidFileInspection> inspect_pinned(const PinnedFile& pinned, const Place& place, const PidFilePolicy& policy) {
  if (!pinned.content) {
    return failure(pinned.content.error(), "read PID file", place);
  }
  PidText text = pinned.content->too_long ? PidText{PidTextForm::other, {}} : read_pid_text(pinned.content->text);
  const PidFileEvidence evidence = gather(text, pinned, place);
  PidFileInspection found = judge_pid_file(std::move(text), evidence, policy);
  found.path = place.path();
  return found;
}

tl::unexpected<Error> no_pid_file(const std::string& operation, const std::filesystem::path& path) {
  return failure(Errc::not_a_lock_file, operation, path,
                 "there is something else than a PID file in it; name another file, or move this one away");
}

}  // namespace sessionlock
