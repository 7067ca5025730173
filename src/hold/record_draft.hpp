#pragma once

/// \file
/// The record of a lock of this process.

#include <chrono>
#include <string>

#include <sessionlock/process_identity.hpp>

#include "protocol/directory.hpp"
#include "record/lock_record_view.hpp"
#include "system/random_id.hpp"
#include "text/timestamp.hpp"

namespace sessionlock {

/// What a record of this process says that another of its records does not. A hold keeps this much, because the whole
/// record takes several times the memory and is seldom asked for.
struct RecordSeed {
  /// Lifetime: the process, and a child keeps its parent's. Null: the record is another process's.
  const ProcessIdentity* owner{nullptr};
  bool tells_time_namespace{false};
  bool names_session{false};
  RandomId lock_id{};
  WallTime created_at{};
  std::chrono::milliseconds max_hold{};
  std::string label{};
};

/// Where the texts lie that are made for one record.
struct RecordTexts {
  Rfc3339Text created_at{};
  HexText lock_id{};
  std::string session{};
};

/// The record, but for the witness. Lifetime: that of the seed and the texts.
[[nodiscard]] LockRecordView describe(const RecordSeed& seed, const Place& session, RecordTexts& texts);

}  // namespace sessionlock
