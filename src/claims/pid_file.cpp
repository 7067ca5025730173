#include <sessionlock/pid_file.hpp>

#include <algorithm>
#include <cerrno>
#include <utility>

#include <fcntl.h>

#include "claims/claim_path.hpp"
#include "claims/own_claims.hpp"
#include "claims/pid_inspector.hpp"
#include "claims/pid_record.hpp"
#include "claims/pid_verdict.hpp"
#include "process/this_process.hpp"
#include "protocol/inode_guard.hpp"
#include "protocol/lock_file.hpp"
#include "protocol/publication.hpp"
#include "protocol/reclaim.hpp"
#include "protocol/temporary_name.hpp"
#include "system/deadline.hpp"
#include "system/file_status.hpp"
#include "system/lasting.hpp"
#include "system/random_id.hpp"

namespace sessionlock {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

/// Where files come and go all the time there is nothing to be claimed.
constexpr int k_claim_attempts_max = 1000;

std::optional<std::string> token_of(const ProcessIdentity& identity) {
  return identity.start_time_ticks ? std::optional(std::to_string(*identity.start_time_ticks)) : std::nullopt;
}

/// What a claim for a process says; the JSON form also where its pid and token are numbered.
PidRecord record_of(const ProcessIdentity& owner, const PidFileOptions& options) {
  PidRecord record;
  record.pid = owner.pid;
  record.start_token = token_of(owner);
  record.format = options.format;
  if (options.format == PidFileFormat::json) {
    record.extra_fields = options.extra_fields;
    const bool knows_time_namespace = owner.time_namespace != 0 || this_observer().time_namespaces_absent;
    if (!owner.boot_id.empty() && owner.pid_namespace != 0 && knows_time_namespace) {
      record.boot_id = owner.boot_id;
      record.pid_namespace = owner.pid_namespace;
      record.time_namespace = owner.time_namespace;
    }
  }
  return record;
}

/// Whether the record is this running process's. Without a token the pid may have been another's before; where such
/// records are trusted that is its own as well.
bool names(const PidRecord& record, const ProcessIdentity& process, const PidFilePolicy& policy) {
  const bool trusts_bare_pid = policy.without_token == UnverifiedOwner::trust;
  PidRecord own = record_of(process, {});
  if (!record.start_token && trusts_bare_pid) {
    own.start_token.reset();
  }
  return (record.start_token || trusts_bare_pid) && means_owner_of(own, record);
}

/// The same, naming the inode that the witness was taken on, where there is a place for it.
PidRecord with_witness(PidRecord record, const FileIdentity* witness, const Place& place) {
  if (witness != nullptr && record.format == PidFileFormat::json) {
    record.witness = declare_witness(*witness, *place.directory->traits);
  }
  return record;
}

/// One claim from call to answer.
class Claim {
 public:
  Claim(const std::filesystem::path& path, const PidFileOptions& options, pid_t owner)
      : path_(path), options_(options), owner_(owner), deadline_(Deadline(options.timeout).end()) {}

  /// What an attempt came to. With neither a file nor an owner: try again.
  struct Step {
    std::optional<PublishedFile> published{};
    /// The owner that stays.
    std::optional<PidFileInspection> running{};
    /// Something is in the way that may go in a moment: sleep before the next attempt.
    bool pause{false};
    /// What is waited for: a claim in progress, or one whose process has ended and whose wrapper is about to remove it.
    std::optional<PidFileInspection> pending{};
  };
  Result<Step> step(const Place& place, const PidRecord& record);
  /// The error of a claim that has waited for as long as it may.
  [[nodiscard]] tl::unexpected<Error> timed_out(const Step& last) const;

  [[nodiscard]] Clock::time_point deadline() const { return deadline_; }

 private:
  Result<Step> judge_contender(const Place& place, PinnedFile& pinned);

  const std::filesystem::path& path_;
  const PidFileOptions& options_;
  const pid_t owner_;
  const Clock::time_point deadline_;
};

Result<Claim::Step> Claim::step(const Place& place, const PidRecord& record) {
  auto id = random_lock_id();
  if (!id) {
    return tl::unexpected(random_failure(id.error(), path_));
  }
  auto attempt = publish_file(place, {options_.mode, *id, true, [&](const FileIdentity* witness) {
                                        return format_pid_record(with_witness(record, witness, place));
                                      }});
  if (!attempt) {
    return tl::unexpected(std::move(attempt).error());
  }
  if (attempt->outcome == PublishOutcome::published) {
    Step step;
    step.published = std::move(attempt->file);
    return step;
  }
  auto pinned = attempt->outcome == PublishOutcome::contended ? pin_pid_file(place) : std::nullopt;
  if (!pinned) {
    return tl::unexpected(std::move(pinned).error());
  }
  return pinned->has_value() ? judge_contender(place, **pinned) : Step{};
}

Result<Claim::Step> Claim::judge_contender(const Place& place, PinnedFile& pinned) {
  auto found = inspect_pinned(pinned, place, options_.policy, owner_);
  if (!found) {
    return tl::unexpected(std::move(found).error());
  }
  Step step;
  if (is_removable(*found)) {
    const auto ended = reclaim(place, pinned, [&]() -> Result<bool> {
      const auto again = inspect_pinned(pinned, place, options_.policy, owner_);
      return again ? Result<bool>(is_removable(*again)) : tl::unexpected(again.error());
    });
    if (!ended) {
      return tl::unexpected(ended.error());
    }
    // Busy: another process is removing it, and may be stopped. Spared: it says something else by now.
    step.pause = *ended == Reclaim::busy || *ended == Reclaim::spared;
    return step;
  }
  if (found->reason == PidFileReason::no_pid_file) {
    return no_pid_file("claim", path_);
  }
  step.pause = found->due.has_value() || found->reason == PidFileReason::witness_inherited;
  (step.pause ? step.pending : step.running) = std::move(*found);
  return step;
}

tl::unexpected<Error> Claim::timed_out(const Step& last) const {
  return failure(Errc::timed_out, "claim", path_,
                 last.pending ? last.pending->explanation() : "another process has the file locked");
}

/// Whether a file under a temporary name is what a claim left that was killed: one whose owner is gone, or one that was
/// not written to its end long ago. Its publisher holds the witness until it has ended.
bool is_left_behind(const PinnedFile& file, const Place& place, WallTime now) {
  if (!file.content || file.content->too_long) {
    return false;
  }
  switch (read_pid_text(file.content->text).form) {
    case PidTextForm::record: {
      const auto found = inspect_pinned(file, place, {});
      return found && found->state == PidFileState::stale;
    }
    case PidTextForm::blank:
    case PidTextForm::torn:
      return is_abandoned(file, now);
    case PidTextForm::no_pid:
    case PidTextForm::other:
      break;
  }
  return false;
}

/// Removes what describes a former owner.
Result<void> remove_all(const std::vector<std::filesystem::path>& paths) {
  for (const auto& path : paths) {
    const auto unlinked = sys::unlinkat(AT_FDCWD, path.c_str());
    if (!unlinked.ok() && unlinked.error != ENOENT) {
      return failure(unlinked.code(), "invalidate", path);
    }
  }
  return {};
}

}  // namespace

struct PidFile::State {
  /// Takes the file along last, so that where memory is missing it stays the caller's to take back.
  State(std::filesystem::path claimed, Place where, PublishedFile&& published, const PidRecord& says)
      : path(std::move(claimed)),
        place(std::move(where)),
        record(with_witness(says, published.has_witness ? &published.file : nullptr, place)),
        own(std::in_place, published.file) {
    file.fd = std::move(published.fd);
    file.file = published.file;
  }

  std::filesystem::path path;
  Place place;
  /// Its descriptor carries the witness, until the claim ends.
  PinnedFile file{};
  PidRecord record;
  std::optional<OwnClaim> own;
  bool keep{false};
  std::uint64_t generation{sys::process_generation()};
  bool ended{false};

  [[nodiscard]] bool is_inherited() const { return generation != sys::process_generation(); }
  [[nodiscard]] tl::unexpected<Error> lost(std::string detail = {}) const {
    return failure(Errc::lost, "use PID file", path, std::move(detail));
  }
  /// Runs with the inode locked, and named by the path.
  Result<Retry> guarded(const std::function<Result<void>()>& action);
  Result<Retry> release_once();
  Result<void> check_owner();
  /// Removes files that describe a former owner. While the claim's inode is locked no other claim can begin, so what is
  /// removed is not a successor's:
  ///   1. A claims, and is stopped. 2. A's file is removed, B claims, and describes itself in such a file. 3. A goes
  ///   on, and finds its claim lost.
  Result<void> invalidate(const std::vector<std::filesystem::path>& paths);
  /// Gives the witness up: what is at the path is nobody's, or another's.
  void end() {
    ended = true;
    own.reset();
    file.fd.reset();
  }
};

Result<Retry> PidFile::State::guarded(const std::function<Result<void>()>& action) {
  if (!file.fd.is_usable() || !place.directory->fd.is_usable()) {
    return lost();  // the program closed what it did not open, as some do that become daemons
  }
  const InodeGuard guard = InodeGuard::enter(place.view(), file.fd.get(), file.file);
  switch (guard.step().answer) {
    case Step::Answer::busy:
      return Retry::again;
    case Step::Answer::other:
      return lost();
    case Step::Answer::failed:
      return tl::unexpected(to_error(guard.step(), path));
    case Step::Answer::done:
      break;
  }
  auto done = action();
  return done ? Result<Retry>(Retry::done) : tl::unexpected(std::move(done).error());
}

/// With the inode locked: whether the file still means the owner for which it was claimed. A daemon that went into the
/// background may have written its own pid into it, and another container's process that has the same one.
Result<void> PidFile::State::check_owner() {
  if (auto read = read_again(file, place); !read) {
    return read;
  }
  if (!file.content) {
    return failure(file.content.error(), "read PID file", path);
  }
  const bool is_same = !file.content->too_long && means_owner_of(record, parse_pid_record(file.content->text));
  return is_same ? Result<void>{} : lost("the file names another owner now, or none, and stays");
}

Result<void> PidFile::State::invalidate(const std::vector<std::filesystem::path>& paths) {
  return paths.empty()
             ? Result<void>{}
             : retry_while_busy("invalidate", path, [&] { return guarded([&] { return remove_all(paths); }); });
}

Result<Retry> PidFile::State::release_once() {
  return guarded([this]() -> Result<void> {
    if (auto same = check_owner(); !same) {
      return same;
    }
    const auto unlinked = sys::unlinkat(place.directory->fd.get(), place.name.c_str());
    if (!unlinked.ok() && unlinked.error != ENOENT) {
      return failure(unlinked.code(), "unlinkat", path);
    }
    return {};
  });
}

PidFile::PidFile(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
PidFile::PidFile(PidFile&&) noexcept = default;

PidFile& PidFile::operator=(PidFile&& other) noexcept {
  if (this != &other) {
    const PidFile former(std::move(*this));  // its destructor releases
    state_ = std::move(other.state_);
  }
  return *this;
}

PidFile::~PidFile() {
  if (!owns() || state_->keep) {
    return;
  }
  try {
    (void)release();  // what stays behind is stale as soon as its owner is gone
  } catch (...) {     // no memory
  }
}

Result<PidClaim> PidFile::claim(const std::filesystem::path& path, const PidFileOptions& options) {
  if (!are_extra_fields(options.extra_fields) ||
      (!options.extra_fields.empty() && options.format != PidFileFormat::json)) {
    return failure(Errc::invalid_argument, "claim", path,
                   "the extra fields are no JSON members, or name pid or startToken");
  }
  const ProcessIdentity owner = options.owner ? *options.owner : this_process();
  if (owner.pid < 1) {
    return failure(Errc::invalid_argument, "claim", path, "the owner has no pid");
  }
  const PidRecord record = record_of(owner, options);
  Claim claim(path, options, owner.pid);
  for (int attempt = 0; attempt < k_claim_attempts_max; ++attempt) {
    auto place = place_of(path);
    if (!place) {
      return tl::unexpected(std::move(place).error());
    }
    auto step = claim.step(*place, record);
    if (!step) {
      return tl::unexpected(std::move(step).error());
    }
    if (step->published) {
      std::unique_ptr<State> state;
      try {
        state = std::make_unique<State>(path, *place, std::move(*step->published), record);
      } catch (...) {  // no memory
        unpublish(*step->published, *place);
        throw;
      }
      PidFile file(std::move(state));
      if (auto done = file.state_->invalidate(options.invalidate); !done) {
        return tl::unexpected(std::move(done).error());  // and the file goes again
      }
      file.state_->keep = options.keep;
      try {
        remove_files_left_behind(path, is_left_behind);
      } catch (...) {  // no memory: the next claim may have it
      }
      return PidClaim{std::move(file), std::nullopt};
    }
    if (step->running) {
      return PidClaim{std::nullopt, std::move(step->running)};
    }
    if (step->pause) {
      if (Clock::now() >= claim.deadline()) {
        return step->pending && step->pending->state == PidFileState::alive
                   ? Result<PidClaim>(PidClaim{std::nullopt, std::move(step->pending)})
                   : claim.timed_out(*step);
      }
      pause_briefly(attempt, claim.deadline());
    }
  }
  return failure(Errc::timed_out, "claim", path, "the file came and went at every attempt");
}

Result<void> PidFile::release() {
  if (!state_ || state_->ended) {
    return {};
  }
  if (state_->is_inherited()) {
    return state_->lost();
  }
  auto released = retry_while_busy("release PID file", state_->path, [this] { return state_->release_once(); });
  if (released || released.error().code == Errc::lost) {
    state_->end();
  }
  return released;
}

Result<void> PidFile::touch() {
  if (!owns()) {
    return state_ ? state_->lost() : failure(Errc::lost, "use PID file", std::filesystem::path());
  }
  return retry_while_busy("touch PID file", state_->path, [this] {
    return state_->guarded([this]() -> Result<void> {
      const auto touched = sys::touch(state_->file.fd.get());
      return touched.ok() ? Result<void>{} : failure(touched.code(), "futimens", state_->path);
    });
  });
}

int PidFile::witness_descriptor() const noexcept {
  return owns() ? state_->file.fd.get() : -1;
}

bool PidFile::owns() const noexcept {
  return state_ && !state_->ended && !state_->is_inherited();
}

const std::filesystem::path& PidFile::path() const {
  static constinit Lasting<std::filesystem::path> none;
  return state_ ? state_->path : none.get();
}

const PidRecord& PidFile::record() const {
  static constinit Lasting<PidRecord> none;
  return state_ ? state_->record : none.get();
}

Result<PidFileInspection> inspect_pid_file(const std::filesystem::path& path, const PidFilePolicy& policy) {
  PidFileInspection missing;
  missing.path = path;
  const auto place = place_of(path);
  if (!place) {
    return place.error().code == std::errc::no_such_file_or_directory ? Result<PidFileInspection>(std::move(missing))
                                                                      : tl::unexpected(place.error());
  }
  const auto pinned = pin_pid_file(*place);
  if (!pinned) {
    return tl::unexpected(pinned.error());
  }
  return pinned->has_value() ? inspect_pinned(**pinned, *place, policy) : std::move(missing);
}

Result<PidFileRemoval> remove_pid_file(const std::filesystem::path& path, RemoveWhose whose,
                                       const PidFilePolicy& policy, const std::optional<ProcessIdentity>& self) {
  const ProcessIdentity own = self ? *self : this_process();
  PidFileRemoval result;
  const auto locked = [&] { return failure(Errc::locked, "remove PID file", path, result.found.explanation()); };
  const auto attempt = [&]() -> Result<Retry> {
    const auto place = place_of(path);
    if (!place) {
      return place.error().code == std::errc::no_such_file_or_directory ? Result<Retry>(Retry::done)
                                                                        : tl::unexpected(place.error());
    }
    auto pinned = pin_pid_file(*place);
    if (!pinned) {
      return tl::unexpected(pinned.error());
    }
    result.found = PidFileInspection{};
    result.found.path = path;
    if (!pinned->has_value()) {
      return Retry::done;
    }
    PinnedFile& file = **pinned;
    const auto may_go = [&]() -> Result<bool> {
      auto found = inspect_pinned(file, *place, policy);
      if (!found) {
        return tl::unexpected(std::move(found).error());
      }
      result.found = std::move(*found);
      return names(result.found.record, own, policy) ||
             (whose == RemoveWhose::own_or_stale && is_removable(result.found));
    };
    const auto goes = may_go();
    if (!goes) {
      return tl::unexpected(goes.error());
    }
    if (!*goes && whose == RemoveWhose::own_or_stale && result.found.reason == PidFileReason::witness_inherited) {
      return Retry::again;  // who holds the witness still may be about to remove the file, or to end
    }
    if (!*goes) {
      return result.found.reason == PidFileReason::no_pid_file ? no_pid_file("remove PID file", path) : locked();
    }
    const auto ended = reclaim(*place, file, may_go);
    if (!ended) {
      return tl::unexpected(ended.error());
    }
    result.removed = *ended == Reclaim::done;
    return result.removed ? Retry::done : Retry::again;
  };
  if (auto done = retry_while_busy("remove PID file", path, attempt); !done) {
    const bool was_held = done.error().code == Errc::timed_out && result.found.state == PidFileState::alive;
    return was_held ? locked() : tl::unexpected(std::move(done).error());
  }
  return result;
}

}  // namespace sessionlock
