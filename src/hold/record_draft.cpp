#include "hold/record_draft.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

#include "process/this_process.hpp"
#include "system/random_id.hpp"
#include "system/system.hpp"
#include "text/timestamp.hpp"

namespace sessionlock {

Result<LockRecord> draft_record(const AcquireOptions& options, const SessionLocation& location, bool names_session) {
  auto lock_id = random_lock_id();
  if (!lock_id) {
    return tl::unexpected(random_failure(lock_id.error(), location.session.path()));
  }
  const ProcessIdentity& self = this_identity();
  LockRecord record;
  record.pid = self.pid;
  record.created_at = format_rfc3339(sys::wall_clock());
  record.starttime = self.start_time_ticks;
  record.max_hold_ms = std::clamp(options.max_hold, std::chrono::milliseconds{1}, k_max_hold_max).count();
  record.lock_id = std::move(*lock_id);
  if (!self.boot_id.empty()) {
    record.boot_id = self.boot_id;
  }
  if (self.pid_namespace != 0) {
    record.pid_namespace = self.pid_namespace;
    if (self.time_namespace != 0 || this_observer().time_namespaces_absent) {
      record.time_namespace = self.time_namespace;
    }
  }
  if (!self.host.empty()) {
    record.host = self.host;
  }
  if (!options.label.empty()) {
    record.label = options.label;
  }
  if (names_session) {
    record.session = location.session.path().string();
  }
  return record;
}

}  // namespace sessionlock
