// `sessionlock append`: JSON lines from standard input become records of a session.

#include <sessionlock/transcript.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/core.h>
#include <unistd.h>

#include "cli/arguments.hpp"
#include "cli/command.hpp"
#include "cli/exit_status.hpp"
#include "cli/line_source.hpp"
#include "cli/made_directories.hpp"
#include "cli/repair_report.hpp"
#include "cli/signals.hpp"
#include "cli/verbose.hpp"
#include "text/printable_text.hpp"

namespace sessionlock::cli {
namespace {

struct AppendArguments {
  SessionArguments session{};
  AcquireArguments acquire{};
  bool fsync{false};
  bool hold{false};
};

using Records = std::span<const std::string_view>;

/// Writes batches, each under the lock, which it acquires for each batch or keeps (`--hold`).
class BatchWriter {
 public:
  BatchWriter(const AppendArguments& arguments, std::stop_token stop)
      : arguments_(arguments),
        manager_(manager_options(arguments)),
        options_(arguments.acquire.acquire_options(arguments.session)),
        enclosing_id_(environment("SESSIONLOCK_ID")) {
    options_.stop = std::move(stop);
    if (arguments.acquire.verbose) {
      missing_directories_.emplace(arguments.session);
    }
  }

  /// Writes all of them or, where it fails, none.
  Result<void> write(Records records) {
    Result<void> result = write_joined(records);
    // Not that run's session, or it has ended: then it is a session like any other.
    if (!result && result.error().code == Errc::lost) {
      result = write_acquired(records);
    }
    return result;
  }

  /// Whether the session's name can be meant as one.
  Result<void> check_session() const {
    const Result<Inspection> inspection = manager_.inspect(arguments_.session.session);
    return inspection ? Result<void>{} : tl::unexpected(inspection.error());
  }

  Result<void> release() {
    transcript_.reset();
    return lock_.release();
  }

  /// How many records, over all batches.
  [[nodiscard]] std::uint64_t written() const { return written_; }

 private:
  static ManagerOptions manager_options(const AppendArguments& arguments) {
    ManagerOptions options = arguments.session.manager_options();
    if (arguments.acquire.verbose) {
      options.observer = verbose_observer();
    }
    return options;
  }

  /// Writes under the lock of the `run` that this is part of. `Errc::lost` if there is no such lock.
  Result<void> write_joined(Records records) {
    if (enclosing_id_.empty()) {
      return tl::unexpected(Error{Errc::lost, "join", {}, {}, {}});
    }
    Result<SessionLock> joined = manager_.join(arguments_.session.session, enclosing_id_);
    if (!joined) {
      return tl::unexpected(std::move(joined).error());
    }
    Result<Transcript> transcript = Transcript::open(*joined, {.fsync = arguments_.fsync});
    if (!transcript) {
      return tl::unexpected(std::move(transcript).error());
    }
    return append(*transcript, records);
  }

  Result<void> write_acquired(Records records) {
    if (!transcript_) {
      Result<SessionLock> lock = manager_.acquire(arguments_.session.session, options_);
      if (missing_directories_) {
        missing_directories_->print_made();
      }
      if (!lock) {
        return tl::unexpected(std::move(lock).error());
      }
      lock_ = std::move(*lock);
      print_take_over(lock_);
      Result<Transcript> transcript = Transcript::open(lock_, {.fsync = arguments_.fsync});
      if (!transcript) {
        return tl::unexpected(std::move(transcript).error());
      }
      transcript_ = std::move(*transcript);
    }
    Result<void> result = append(*transcript_, records);
    if (result && !arguments_.hold) {
      result = release();
    }
    return result;
  }

  Result<void> append(Transcript& transcript, Records records) {
    const Result<AppendReport> report = transcript.append(records);
    if (!report) {
      return tl::unexpected(report.error());
    }
    written_ += report->records;
    print_repair(*report, lock_.session_path());
    return {};
  }

  const AppendArguments& arguments_;
  LockManager manager_;
  AcquireOptions options_;
  const std::string enclosing_id_;
  SessionLock lock_;
  std::optional<Transcript> transcript_;
  std::optional<MissingDirectories> missing_directories_;
  std::uint64_t written_{0};
};

std::string too_long_words() {
  return fmt::format("it is longer than {} MiB", k_transcript_record_bytes_max / 1024 / 1024);
}

bool is_record(std::string_view line) {
  return line.size() <= k_transcript_record_bytes_max && is_transcript_record(line);
}

/// Nothing but JSON's white space.
bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t\r") == std::string_view::npos;
}

/// The lines of a batch that can be appended, and the line that ended them.
struct CheckedBatch {
  std::vector<std::string_view> records{};
  /// Position in the batch; none if all lines are good.
  std::optional<std::size_t> refused{};
};

CheckedBatch check(const Batch& batch) {
  CheckedBatch checked;
  for (std::size_t i = 0; i < batch.lines.size() && !checked.refused; ++i) {
    if (is_record(batch.lines[i])) {
      checked.records.push_back(batch.lines[i]);
    } else if (!is_blank(batch.lines[i])) {
      checked.refused = i;
    }
  }
  return checked;
}

/// Says which line stopped it and what became of the others.
int refuse_line(std::uint64_t number, std::string_view words, std::uint64_t written) {
  print_error(fmt::format("line {} of the input is not one JSON value: {}; {} appended before it, none after", number,
                          words, written == 1 ? "1 record" : fmt::format("{} records", written)));
  return k_bad_data;
}

/// At most so many bytes of a text from its beginning, or from its end; less if that would cut a character.
std::string_view beginning_of(std::string_view text, std::size_t bytes) {
  while (bytes < text.size() && bytes > 0 && (static_cast<unsigned char>(text[bytes]) & 0xc0U) == 0x80) {
    --bytes;
  }
  return text.substr(0, bytes);
}
std::string_view end_of(std::string_view text, std::size_t bytes) {
  text.remove_prefix(text.size() - std::min(bytes, text.size()));
  while (!text.empty() && (static_cast<unsigned char>(text.front()) & 0xc0U) == 0x80) {
    text.remove_prefix(1);
  }
  return text;
}

/// What is wrong with a line often stands at one of its ends, and often cannot be seen.
std::string show_line(std::string_view line) {
  constexpr std::size_t k_beginning = 60;
  constexpr std::size_t k_end = 20;
  if (line.size() > k_transcript_record_bytes_max) {
    return too_long_words();
  }
  return line.size() <= k_beginning + k_end ? fmt::format("'{}'", revealing_text(line))
                                            : fmt::format("'{}…{}'", revealing_text(beginning_of(line, k_beginning)),
                                                          revealing_text(end_of(line, k_end)));
}

/// Why a write failed, and what had been written by then. For contention that is one line and no more.
int fail_write(Error error, std::uint64_t written) {
  const bool is_contention = error.code == Errc::locked || error.code == Errc::timed_out;
  if (written == 0 && !is_contention) {
    error.detail += error.detail.empty() ? "nothing was appended" : "; nothing was appended";
  }
  const int status = fail(error);
  if (written > 0) {
    print_error(fmt::format("only the first {} appended",
                            written == 1 ? "record was" : fmt::format("{} records were", written)));
  }
  return status;
}

/// Why the input gave no more lines.
int finish(const Batch& batch, BatchWriter& writer, SignalCatcher& signals) {
  // A session that cannot be meant is an error even if there was nothing to append.
  const bool had_nothing = batch.end == Batch::End::end && writer.written() == 0;
  const Result<void> released = had_nothing ? writer.check_session() : writer.release();
  const int status = released ? k_done : fail(released.error());
  if (batch.end == Batch::End::interrupted) {
    if (const std::vector<Caught> caught = signals.take(); !caught.empty()) {
      die_of(caught.front().number);
    }
  }
  if (batch.end == Batch::End::too_long) {
    return refuse_line(batch.first_line, too_long_words(), writer.written());
  }
  if (batch.end == Batch::End::failed) {
    static_cast<void>(fail_write(Error{batch.error, "read", {}, {}, "standard input"}, writer.written()));
    return k_io_error;
  }
  return status;
}

int append(const AppendArguments& arguments) {
  SignalCatcher signals{k_ending_signals};
  const Interruption interruption{signals};
  BatchWriter writer{arguments, interruption.token()};
  LineSource source{STDIN_FILENO, signals.wake_fd(), k_transcript_record_bytes_max};
  while (true) {
    const Batch batch = source.next();
    const CheckedBatch checked = check(batch);
    if (!checked.records.empty()) {
      if (const Result<void> written = writer.write(checked.records); !written) {
        if (written.error().code == Errc::cancelled) {
          return finish({{}, batch.first_line, Batch::End::interrupted, {}}, writer, signals);
        }
        return fail_write(written.error(), writer.written());
      }
    }
    if (checked.refused) {
      return refuse_line(batch.first_line + *checked.refused, show_line(batch.lines[*checked.refused]),
                         writer.written());
    }
    if (batch.end != Batch::End::open) {
      return finish(batch, writer, signals);
    }
  }
}

}  // namespace

Command declare_append() {
  Command command{"append", "Append the JSON lines of standard input to a session"};
  const auto arguments = std::make_shared<AppendArguments>();
  add_session(command, arguments->session);
  add_acquire_options(command, arguments->acquire);
  command.flag("--fsync", arguments->fsync, "Wait until the records are on stable storage");
  command.flag("--hold", arguments->hold, "Keep the lock between batches");
  add_session_options(command, arguments->session);
  add_mode(command, arguments->session.mode,
           "Permissions of a session that is made, and of the lock, which others never get to write");
  command.footer =
      "Each line is one record and is written whole; blank lines are skipped. The lock is taken for each batch of what "
      "can be read at once.\n"
      "The first line that is not one JSON value ends it, exit status 65; the lines before it are appended.";
  command.action = [arguments] { return append(*arguments); };
  return command;
}

}  // namespace sessionlock::cli
