#include <sessionlock/transcript.hpp>

#include <cerrno>
#include <optional>
#include <string>
#include <utility>

#include <fcntl.h>
#include <fmt/core.h>

#include "hold/lock_queue.hpp"
#include "hold/lock_share.hpp"
#include "protocol/directory.hpp"
#include "sessions/appended_file.hpp"
#include "sessions/torn_file.hpp"
#include "sessions/transcript_end.hpp"
#include "system/file_status.hpp"
#include "system/system.hpp"
#include "text/json_grammar.hpp"
#include "verdict/failure.hpp"

namespace sessionlock {
namespace {

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

/// Whether an error of opening a session says that it is not for this process to write, or is gone.
bool is_for_others(const std::error_code& code) {
  return code == std::errc::permission_denied || code == std::errc::operation_not_permitted ||
         code == std::errc::read_only_file_system || code == std::errc::text_file_busy ||
         code == std::errc::no_such_file_or_directory || code == std::errc::too_many_symbolic_link_levels;
}

/// What was found at the end of a session, which is ready for records now.
struct Prepared {
  /// The first of them needs a newline before it.
  bool needs_newline{false};
  /// Of an incomplete last line, which stays.
  std::uint64_t left_bytes{0};
};

/// What became of an attempt to cut a session back to its last record.
enum class Cut {
  done,
  changed,   ///< Another program changed its end meanwhile, and nothing was moved or cut.
  forbidden  ///< It can only be appended to.
};

}  // namespace

/// An open session and what is known of its end. Everything that touches the file happens inside a guarded write.
struct Transcript::State {
  std::shared_ptr<LockShare> share{};
  AppendOptions options{};
  AppendedFile file{};
  /// Where the file ended, with a newline, when this last left it.
  std::optional<std::uint64_t> clean_end{};
  /// Moved and cut off, and not yet reported.
  std::uint64_t torn_bytes{0};
  std::uint64_t nul_bytes{0};
  /// A newline, which the file may lack, and the records, each with its own.
  std::string buffer{};

  [[nodiscard]] const Place& place() const { return share->hold->location().session; }
  /// Whether records must have reached the disk, or the file server, before the guard is left. On a file system that
  /// other hosts share: 1. A appends a record, which stays in its kernel's memory. 2. B removes A's lock by force, and
  /// appends where the server's file ends. 3. A's kernel writes its record back over B's.
  [[nodiscard]] bool must_sync() const { return options.fsync || !place().directory->traits->local; }

  [[nodiscard]] Result<void> assemble(std::span<const std::string_view> records);
  [[nodiscard]] Result<std::uint64_t> size_by_name() const;
  [[nodiscard]] Result<AppendReport> append(std::size_t records);

  /// Appends the buffer to the file, which has `size` bytes, behind what `prepare_end` makes of its end.
  [[nodiscard]] Result<AppendReport> write(std::uint64_t size, std::size_t records);
  /// Makes the file end where a record may begin. `size` is that of the file.
  [[nodiscard]] Result<Prepared> prepare_end(std::uint64_t& size);
  [[nodiscard]] Result<Cut> cut_off(const TranscriptEnd& end);
  [[nodiscard]] Result<Cut> cut_where_it_was(const TranscriptEnd& end, const TornFile* torn) const;
  /// Whether other programs may write under this lock, and be in the middle of a line.
  [[nodiscard]] bool is_shared_with_others() const;
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

bool Transcript::State::is_shared_with_others() const {
  return share->hold->params().joined || share->hold->is_handed_over();
}

Result<Cut> Transcript::State::cut_where_it_was(const TranscriptEnd& end, const TornFile* torn) const {
  // 1. A program that knows no lock, such as a log rotation, cuts the file, or completes its line. 2. The cut would
  // lengthen a file that is shorter now, or take a line that is whole now. So all is compared once more.
  struct stat status {};
  if (const auto found = sys::fstat(file.fd.get(), status); !found.ok()) {
    return failure(found.code(), "fstat", file.path);
  }
  if (size_of(status) != end.size) {
    return Cut::changed;
  }
  auto again = find_transcript_end(file, end.size);
  if (!again) {
    return tl::unexpected(std::move(again).error());
  }
  Result<bool> is_same = *again == end;
  if (*is_same && torn != nullptr) {
    is_same = torn->has_taken(file, end.fragment_start, end.fragment_end);
  }
  if (!is_same || !*is_same) {
    return is_same ? Result<Cut>(Cut::changed) : tl::unexpected(std::move(is_same).error());
  }
  auto cut = file.truncate(end.kept_end);
  if (!cut && cut.error().code != std::errc::operation_not_permitted) {
    return tl::unexpected(std::move(cut).error());
  }
  return cut ? Cut::done : Cut::forbidden;
}

Result<Cut> Transcript::State::cut_off(const TranscriptEnd& end) {
  // A file that is open for writing and yet may not be cut is one that can only be appended to: EPERM has no other
  // meaning in ftruncate(2). Where the file system says so beforehand, nothing is copied in vain.
  sys::Attributes attributes;
  if (sys::attributes(file.fd.get(), attributes).ok() && attributes.append_only) {
    return Cut::forbidden;
  }
  std::optional<TornFile> torn;
  if (end.fragment_bytes() > 0) {
    auto opened = TornFile::open(place(), file);
    if (!opened) {
      return tl::unexpected(std::move(opened).error());
    }
    torn = std::move(*opened);
    // Only what is safe there may go here. If we die in between, it is in both, and is copied once more.
    auto taken = torn->take(file, end.fragment_start, end.fragment_end);
    if (taken) {
      taken = sync_directory(*place().directory);
    }
    if (!taken) {
      torn->give_back();
      return tl::unexpected(std::move(taken).error());
    }
  }
  auto cut = cut_where_it_was(end, torn ? &*torn : nullptr);
  const bool is_done = cut && *cut == Cut::done;
  if (torn && !is_done) {
    torn->give_back();
  }
  torn_bytes += is_done ? end.fragment_bytes() : 0;
  nul_bytes += is_done ? end.nul_bytes() : 0;
  return cut;
}

Result<Prepared> Transcript::State::prepare_end(std::uint64_t& size) {
  for (int attempt = 0; attempt < k_repairs_max; ++attempt) {
    auto inside_line = file.ends_inside_line(size);
    if (!inside_line) {
      return tl::unexpected(std::move(inside_line).error());
    }
    if (!*inside_line) {
      return Prepared{};
    }
    if (is_shared_with_others()) {
      return failure(Errc::torn_transcript, "append", file.path,
                     "its last line is incomplete; another program under the same lock may be writing it");
    }
    auto end = find_transcript_end(file, size);
    if (!end) {
      return tl::unexpected(std::move(end).error());
    }
    auto cut = end->kept_end == size ? Result<Cut>(Cut::done) : cut_off(*end);
    if (!cut) {
      return tl::unexpected(std::move(cut).error());
    }
    if (*cut == Cut::forbidden) {
      return Prepared{true, size - end->line_start};
    }
    if (*cut == Cut::done) {
      size = end->kept_end;
      return Prepared{end->lacks_newline(), 0};
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
    return AppendReport{.offset = *size};
  }
  return write(*size, records);
}

Result<AppendReport> Transcript::State::write(std::uint64_t size, std::size_t records) {
  Prepared prepared;
  if (clean_end != size) {  // the first append, or others wrote meanwhile
    clean_end.reset();
    auto found = prepare_end(size);
    if (!found) {
      return tl::unexpected(std::move(found).error());
    }
    prepared = *found;
  }
  const std::string_view bytes = std::string_view(buffer).substr(prepared.needs_newline ? 0 : 1);
  clean_end.reset();
  auto written = bytes.empty() ? Result<void>{} : file.append(bytes, size);
  if (written && must_sync()) {
    written = file.sync();
    if (!written) {
      written.error().detail = file.cut_back(size, bytes.size());
    }
  }
  if (!written) {
    return tl::unexpected(std::move(written).error());
  }
  clean_end = size + bytes.size();
  return AppendReport{records, size + (prepared.needs_newline ? 1 : 0), std::exchange(torn_bytes, 0),
                      std::exchange(nul_bytes, 0), prepared.left_bytes};
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
  const auto mode = state->share->hold->params().options->mode;
  if (mode && file->is_new) {
    if (const auto changed = sys::fchmod(file->fd.get(), *mode); !changed.ok()) {
      return failure(changed.code(), "fchmod", file->path);
    }
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

Result<AppendReport> Transcript::repair(SessionLock& lock) {
  retry_failed_releases();
  Transcript::State state;
  state.share = SessionLockAccess::share(lock);
  if (!state.share) {
    return failure(Errc::lost, "repair transcript", std::filesystem::path(), "the handle owns no lock");
  }
  auto scope = state.share->enter_guard();
  if (!scope) {
    return tl::unexpected(std::move(scope).error());
  }
  const Place& place = state.place();
  struct stat status {};
  const auto found = sys::fstatat(place.directory->fd.get(), place.name.c_str(), status, AT_SYMLINK_NOFOLLOW);
  if (!found.ok() || !S_ISREG(status.st_mode)) {  // nothing is opened that an open might change
    return found.ok() || found.error == ENOENT ? Result<AppendReport>{}
                                               : failure(found.code(), "fstatat", place.path());
  }
  auto file = AppendedFile::open(*place.directory, place.name, 0, status, Missing::fail);
  if (!file) {
    return is_for_others(file.error().code) ? Result<AppendReport>{} : tl::unexpected(std::move(file).error());
  }
  state.file = std::move(*file);
  const std::uint64_t size = size_of(status);
  auto is_torn = state.file.ends_inside_line(size);
  if (is_torn && *is_torn) {
    is_torn = has_lines_of_objects(state.file, size);
  }
  if (!is_torn) {
    return tl::unexpected(std::move(is_torn).error());
  }
  state.buffer = "\n";
  return *is_torn ? state.write(size, 0) : AppendReport{};
}

bool is_transcript_record(std::string_view text) {
  return fault_of(text).empty();
}

}  // namespace sessionlock
