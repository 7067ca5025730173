#include "hold/record_draft.hpp"

#include <string_view>

namespace sessionlock {

LockRecordView describe(const RecordSeed& seed, const Place& session, RecordTexts& texts) {
  const ProcessIdentity& owner = *seed.owner;
  texts.created_at = rfc3339_text(seed.created_at);
  texts.lock_id = hex_text(seed.lock_id);
  LockRecordView record;
  record.pid = owner.pid;
  record.created_at = std::string_view(texts.created_at.data(), texts.created_at.size());
  record.starttime = owner.start_time_ticks;
  record.max_hold_ms = seed.max_hold.count();
  record.lock_id = std::string_view(texts.lock_id.data(), texts.lock_id.size());
  if (!owner.boot_id.empty()) {
    record.boot_id = owner.boot_id;
  }
  if (owner.pid_namespace != 0) {
    record.pid_namespace = owner.pid_namespace;
    if (seed.tells_time_namespace) {
      record.time_namespace = owner.time_namespace;
    }
  }
  if (!owner.host.empty()) {
    record.host = owner.host;
  }
  if (!seed.label.empty()) {
    record.label = seed.label;
  }
  if (seed.names_session) {
    texts.session = session.path().string();
    record.session = texts.session;
  }
  return record;
}

}  // namespace sessionlock
