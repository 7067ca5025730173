#pragma once

/// \file
/// A lock record whose texts lie elsewhere. Every publication of a lock writes one, and copies of its texts would cost
/// more than writing it. Part of the `lock_record` room.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <sys/types.h>

#include <sessionlock/lock_record.hpp>

namespace sessionlock {

/// The members of `LockRecord`. Lifetime: that of the texts.
struct LockRecordView {
  std::optional<pid_t> pid{};
  std::optional<std::string_view> created_at{};
  std::optional<std::uint64_t> starttime{};
  std::optional<std::int64_t> max_hold_ms{};
  std::optional<std::string_view> lock_id{};
  std::optional<std::string_view> boot_id{};
  std::optional<std::uint64_t> pid_namespace{};
  std::optional<std::uint64_t> time_namespace{};
  std::optional<std::string_view> witness{};
  std::optional<std::string_view> host{};
  std::optional<std::string_view> label{};
  std::optional<std::string_view> session{};
};

[[nodiscard]] LockRecordView view_of(const LockRecord& record);
/// A record with copies of the texts.
[[nodiscard]] LockRecord record_of(const LockRecordView& view);
/// As `format_lock_record`.
[[nodiscard]] std::string format_lock_record_view(const LockRecordView& record);

/// Whether a lock record has a member of this name.
[[nodiscard]] bool is_lock_field(std::string_view name);
/// Whether a member of a lock record has a name that begins like this.
[[nodiscard]] bool begins_lock_field(std::string_view name);

}  // namespace sessionlock
