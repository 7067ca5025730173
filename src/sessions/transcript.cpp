#include <sessionlock/transcript.hpp>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include <fcntl.h>
#include <fmt/core.h>

#include "hold/lock_queue.hpp"
#include "hold/lock_share.hpp"
#include "protocol/directory.hpp"
#include "sessions/appended_file.hpp"
#include "system/file_status.hpp"
#include "system/system.hpp"
#include "text/json_grammar.hpp"
#include "verdict/failure.hpp"

namespace sessionlock {
namespace {

constexpr std::string_view k_torn_suffix = ".torn";
/// How much of a torn line is in memory at a time: it may be as long as the disk is large.
constexpr std::size_t k_chunk_bytes = std::size_t{64} * 1024;
/// A program that changes the end of the file each time does not stop for this one.
constexpr int k_repairs_max = 8;
/// What is kept of the buffer between appends.
constexpr std::size_t k_kept_buffer_bytes = std::size_t{1} * 1024 * 1024;

/// Why a text is no record; empty if it is one.
std::string_view fault_of(std::string_view text) {
  if (text.empty()) {
    return "is empty";
  }
  if (text.size() > k_transcript_record_bytes_max) {
    return "is longer than 64 MiB";
  }
  if (text.find('\n') != std::string_view::npos) {
    return "has a newline in it";
  }
  return is_json_value(text) ? "" : "is not one JSON value";
}

/// Whether a JSON value is a number.
bool is_number(std::string_view json) {
  const char first = json[json.find_first_not_of(" \t\n\r")];
  return first == '-' || (first >= '0' && first <= '9');
}

}  // namespace

/// An open session and what is known of its end. Everything that touches the file happens inside a guarded write.
struct Transcript::State {
  std::shared_ptr<LockShare> share{};
  AppendOptions options{};
  AppendedFile file{};
  /// Where the file ended, with a newline, when this last left it.
  std::optional<std::uint64_t> clean_end{};
  /// Moved, and not yet reported.
  std::uint64_t torn_bytes{0};
  /// A newline, which the file may lack, and the records, each with its own.
  std::string buffer{};

  [[nodiscard]] const Place& place() const { return share->hold->location().session; }

  [[nodiscard]] Result<void> assemble(std::span<const std::string_view> records);
  [[nodiscard]] Result<std::uint64_t> size_by_name() const;
  [[nodiscard]] Result<AppendReport> append(std::size_t records);

  /// What stands behind the last newline.
  struct Tail {
    std::uint64_t start{0};
    std::uint64_t end{0};
    [[nodiscard]] std::uint64_t size() const { return end - start; }
  };
  /// Makes the file end where a record may begin; true if it lacks a newline for that. `size` is that of the file.
  [[nodiscard]] Result<bool> repair_tail(std::uint64_t& size);
  [[nodiscard]] Result<Tail> find_tail(std::uint64_t size) const;
  [[nodiscard]] Result<bool> lacks_only_newline(const Tail& tail) const;
  /// False: another program changed the end of the file meanwhile, and nothing was moved.
  [[nodiscard]] Result<bool> move_to_torn(const Tail& tail);
  [[nodiscard]] Result<bool> copy_to(const AppendedFile& torn, std::uint64_t torn_size, const Tail& tail) const;
};

Result<void> Transcript::State::assemble(std::span<const std::string_view> records) {
  std::size_t size = 1;
  for (std::size_t i = 0; i < records.size(); ++i) {
    if (const auto fault = fault_of(records[i]); !fault.empty()) {
      return failure(Errc::invalid_record, "append", file.path, fmt::format("record {} {}", i + 1, fault));
    }
    size += records[i].size() + 1;
  }
  buffer.clear();
  if (buffer.capacity() > k_kept_buffer_bytes && size <= k_kept_buffer_bytes) {
    buffer.shrink_to_fit();
  }
  buffer.reserve(size);
  buffer += '\n';
  for (const auto& record : records) {
    buffer += record;
    buffer += '\n';
  }
  return {};
}

/// The file's size, if it still has its name: nobody would read what is written to one that has not.
Result<std::uint64_t> Transcript::State::size_by_name() const {
  struct stat status {};
  const auto found = sys::fstatat(place().directory->fd.get(), place().name.c_str(), status, AT_SYMLINK_NOFOLLOW);
  if (!found.ok() && found.error != ENOENT) {
    return failure(found.code(), "fstatat", file.path);
  }
  if (!found.ok() || identity_of(status) != file.identity) {
    return failure(Errc::replaced_session, "append", file.path,
                   found.ok() ? "another file has its name now" : "nothing has its name any more");
  }
  return size_of(status);
}

Result<Transcript::State::Tail> Transcript::State::find_tail(std::uint64_t size) const {
  std::string chunk(k_chunk_bytes, '\0');
  for (std::uint64_t end = size; end > 0;) {
    const auto length = static_cast<std::size_t>(std::min<std::uint64_t>(end, chunk.size()));
    if (auto got = file.read(end - length, chunk.data(), length); !got) {
      return tl::unexpected(std::move(got).error());
    }
    end -= length;
    if (const auto newline = std::string_view(chunk.data(), length).rfind('\n'); newline != std::string_view::npos) {
      return Tail{end + newline + 1, size};
    }
  }
  return Tail{0, size};
}

/// `12` may be what is left of `123`; no other JSON value can be cut off and still be one.
Result<bool> Transcript::State::lacks_only_newline(const Tail& tail) const {
  if (tail.size() > k_transcript_record_bytes_max) {
    return false;
  }
  std::string text(static_cast<std::size_t>(tail.size()), '\0');
  if (auto got = file.read(tail.start, text.data(), text.size()); !got) {
    return tl::unexpected(std::move(got).error());
  }
  return is_transcript_record(text) && !is_number(text);
}

Result<bool> Transcript::State::copy_to(const AppendedFile& torn, std::uint64_t torn_size, const Tail& tail) const {
  auto inside_line = torn.ends_inside_line(torn_size);  // a repair that was killed while it copied
  if (!inside_line) {
    return tl::unexpected(std::move(inside_line).error());
  }
  std::string chunk = *inside_line ? "\n" : "";
  std::uint64_t written = 0;
  for (std::uint64_t at = tail.start; at < tail.end;) {
    const auto length = static_cast<std::size_t>(std::min<std::uint64_t>(tail.end - at, k_chunk_bytes));
    const std::size_t before = chunk.size();
    chunk.resize(before + length);
    if (auto got = file.read(at, chunk.data() + before, length); !got) {
      (void)torn.cut_back(torn_size, written);
      return tl::unexpected(std::move(got).error());
    }
    at += length;
    if (at == tail.end) {
      chunk += '\n';
    }
    if (auto done = torn.append(chunk, torn_size + written); !done) {
      (void)torn.cut_back(torn_size, written);
      return tl::unexpected(std::move(done).error());
    }
    written += chunk.size();
    chunk.clear();
  }
  // Only what is safe there may go here. If we die in between, it is in both, and is copied once more.
  auto done = torn.sync();
  if (done) {
    done = sync_directory(*place().directory);
  }
  // 1. A program that knows no lock, such as a log rotation, cuts the file, or completes its line. 2. The cut would
  // lengthen a file that is shorter now, or take a line that is whole now. So the end is compared once more.
  Result<bool> is_same = done ? file.ends_in_copy(tail.start, tail.size(), torn, torn_size + (*inside_line ? 1 : 0))
                              : tl::unexpected(std::move(done).error());
  if (is_same && *is_same) {
    if (auto cut = file.truncate(tail.start); !cut) {
      is_same = tl::unexpected(std::move(cut).error());
    }
  }
  if (!is_same || !*is_same) {
    (void)torn.cut_back(torn_size, written);
  }
  return is_same;
}

Result<bool> Transcript::State::move_to_torn(const Tail& tail) {
  struct stat status {};
  if (const auto found = sys::fstat(file.fd.get(), status); !found.ok()) {
    return failure(found.code(), "fstat", file.path);
  }
  // Who may read and write the one may read and write the other.
  const mode_t mode = status.st_mode & (S_IRUSR | S_IWUSR | S_IRGRP | S_IWGRP | S_IROTH | S_IWOTH);
  auto torn = AppendedFile::open(*place().directory, place().name + std::string(k_torn_suffix), mode, status);
  if (!torn) {
    return tl::unexpected(std::move(torn).error());
  }
  auto moved = copy_to(*torn, size_of(status), tail);
  torn_bytes += moved && *moved ? tail.size() : 0;
  return moved;
}

Result<bool> Transcript::State::repair_tail(std::uint64_t& size) {
  for (int attempt = 0; attempt < k_repairs_max; ++attempt) {
    auto inside_line = file.ends_inside_line(size);
    if (!inside_line || !*inside_line) {
      return inside_line;
    }
    if (share->hold->params().joined) {
      return failure(Errc::torn_transcript, "append", file.path,
                     "its last line is incomplete; another program under the same lock may be writing it");
    }
    auto tail = find_tail(size);
    if (!tail) {
      return tl::unexpected(std::move(tail).error());
    }
    auto complete = lacks_only_newline(*tail);
    if (!complete || *complete) {
      return complete;
    }
    auto moved = move_to_torn(*tail);
    if (!moved) {
      return tl::unexpected(std::move(moved).error());
    }
    if (*moved) {
      size = tail->start;
      return false;
    }
    auto now = size_by_name();
    if (!now) {
      return tl::unexpected(std::move(now).error());
    }
    size = *now;
  }
  return failure(Errc::torn_transcript, "append", file.path,
                 "another program changed the file each time that its incomplete last line was to be moved away");
}

Result<AppendReport> Transcript::State::append(std::size_t records) {
  auto scope = share->enter_guard();
  if (!scope) {
    return tl::unexpected(std::move(scope).error());
  }
  if (!file.fd.is_usable()) {
    return failure(Errc::replaced_session, "append", file.path, "this program has closed the file's descriptor");
  }
  auto size = size_by_name();
  if (!size) {
    return tl::unexpected(std::move(size).error());
  }
  if (records == 0) {
    return AppendReport{0, *size, 0};
  }
  bool needs_newline = false;
  if (clean_end != *size) {  // the first append, or others wrote meanwhile
    clean_end.reset();
    auto repaired = repair_tail(*size);
    if (!repaired) {
      return tl::unexpected(std::move(repaired).error());
    }
    needs_newline = *repaired;
  }
  const std::string_view bytes = std::string_view(buffer).substr(needs_newline ? 0 : 1);
  clean_end.reset();
  auto written = file.append(bytes, *size);
  if (written && options.fsync) {
    written = file.sync();
    if (!written) {
      written.error().detail = file.cut_back(*size, bytes.size());
    }
  }
  if (!written) {
    return tl::unexpected(std::move(written).error());
  }
  clean_end = *size + bytes.size();
  return AppendReport{records, *size + (needs_newline ? 1 : 0), std::exchange(torn_bytes, 0)};
}

Transcript::Transcript(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
Transcript::Transcript(Transcript&&) noexcept = default;
Transcript& Transcript::operator=(Transcript&&) noexcept = default;
Transcript::~Transcript() = default;

Result<Transcript> Transcript::open(SessionLock& lock, AppendOptions options) {
  retry_failed_releases();
  auto state = std::make_unique<State>();
  state->share = SessionLockAccess::share(lock);
  state->options = options;
  if (!state->share) {
    return failure(Errc::lost, "open transcript", std::filesystem::path(), "the handle owns no lock");
  }
  // Under the lock, because this may create the file.
  auto scope = state->share->enter_guard();
  if (!scope) {
    return tl::unexpected(std::move(scope).error());
  }
  struct stat status {};
  auto file = AppendedFile::open(*state->place().directory, state->place().name, S_IRUSR | S_IWUSR, status);
  if (!file) {
    if (file.error().code == std::errc::too_many_symbolic_link_levels) {  // O_NOFOLLOW: the lock is not of its target
      return failure(Errc::replaced_session, "open transcript", file.error().path, "a symbolic link has its name now");
    }
    return tl::unexpected(std::move(file).error());
  }
  state->file = std::move(*file);
  if (options.fsync) {
    if (auto synced = sync_directory(*state->place().directory); !synced) {
      return tl::unexpected(std::move(synced).error());
    }
  }
  return Transcript(std::move(state));
}

Result<AppendReport> Transcript::append(std::string_view json) {
  return append(std::span(&json, 1));
}

Result<AppendReport> Transcript::append(std::span<const std::string_view> records) {
  retry_failed_releases();
  if (!state_) {
    return failure(Errc::lost, "append", std::filesystem::path(), "the transcript was moved away");
  }
  if (auto assembled = state_->assemble(records); !assembled) {
    return tl::unexpected(std::move(assembled).error());
  }
  return state_->append(records.size());
}

bool is_transcript_record(std::string_view text) {
  return fault_of(text).empty();
}

}  // namespace sessionlock
