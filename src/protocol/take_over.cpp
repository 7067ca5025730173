#include "protocol/take_over.hpp"

#include <cerrno>
#include <memory>
#include <utility>

#include "protocol/candidate.hpp"
#include "protocol/file_system_trials.hpp"
#include "protocol/per_name_locks.hpp"
#include "system/system.hpp"

namespace sessionlock {
namespace {

/// Whether the error means that no second name can be had here for another's file: fs.protected_hardlinks
/// (proc_sys_fs(5)) says EPERM, and so do file systems without hard links.
bool is_link_refused(int error) {
  return error == EPERM || error == EMLINK || is_unsupported(error);
}

/// Makes a complete file under a temporary name, and another as often as it is swept away.
Result<void> make_unfinished(const Place& place, const Publication& publication, std::optional<Candidate>& candidate) {
  for (int attempt = 0; attempt < k_candidates_max; ++attempt) {
    candidate.emplace(place, publication);
    auto complete = complete_candidate(*candidate, place, publication);
    if (complete && !*complete) {
      continue;
    }
    const int error = complete ? candidate->name_temporarily() : 0;
    if (complete && error == 0) {
      return {};
    }
    auto failed = complete ? judge_naming_failure(place, error)
                           : judge_preparing_failure(place, *candidate, std::move(complete).error());
    if (!failed) {
      return tl::unexpected(std::move(failed).error());
    }
    if (failed->has_value()) {
      break;  // the directory is gone, and the judged file with it
    }
  }
  return removed_again_and_again(place);
}

/// A complete file of the caller's, which takes the place of a judged one.
class OwnFile final : public Successor {
 public:
  enum class Undo {
    possible,  ///< What is replaced is kept until the file's hold has reached its caller.
    none
  };
  OwnFile(const Place& place, const Publication& publication, Undo undo)
      : place_(place), publication_(publication), can_be_undone_(undo == Undo::possible) {}

  Result<void> make() override { return make_unfinished(place_, publication_, candidate_); }
  Result<Reclaim> take_place(PinnedInode& judged, InodeGuard& guard) override;

  [[nodiscard]] bool has_its_name() const { return candidate_ && candidate_->has_its_name(); }
  /// The file, once it has taken the place.
  [[nodiscard]] PublishedFile take();

 private:
  [[nodiscard]] int directory() const { return place_.directory->fd.get(); }
  [[nodiscard]] FileSystemTraits& traits() const { return *place_.directory->traits; }
  [[nodiscard]] const std::string& unfinished() const { return candidate_->temporary()->place().name; }

  /// None: the file system does not know the exchange.
  [[nodiscard]] Result<std::optional<Reclaim>> exchange(PinnedInode& judged, InodeGuard& guard);
  /// The names were exchanged; but another file than the judged one lies under the temporary name.
  [[nodiscard]] Reclaim exchange_back();
  [[nodiscard]] Result<Reclaim> link_and_rename(PinnedInode& judged, InodeGuard& guard);
  [[nodiscard]] Result<Reclaim> copy_and_rename(PinnedInode& judged);
  [[nodiscard]] Result<void> rename();
  /// Begins to keep what was replaced.
  void keep(PinnedInode&& replaced) {
    replaced_->keep(std::move(replaced), candidate_->fd().get(), candidate_->file());
  }

  const Place& place_;
  const Publication& publication_;
  const bool can_be_undone_;
  std::optional<Candidate> candidate_{};
  std::unique_ptr<ReplacedFile> replaced_{};
};

Result<Reclaim> OwnFile::take_place(PinnedInode& judged, InodeGuard& guard) {
  auto exchanged = exchange(judged, guard);
  if (!exchanged) {
    return tl::unexpected(std::move(exchanged).error());
  }
  if (exchanged->has_value()) {
    return **exchanged;
  }
  if (can_be_undone_) {
    return link_and_rename(judged, guard);
  }
  auto renamed = rename();
  return renamed ? Result<Reclaim>(Reclaim::done) : tl::unexpected(std::move(renamed).error());
}

Result<std::optional<Reclaim>> OwnFile::exchange(PinnedInode& judged, InodeGuard& guard) {
  // What knows paths, not files, may confuse the two by an exchange that it does not know itself.
  if (!traits().exchanges_names.load() || traits().locks_are_per_name.load()) {
    return std::nullopt;
  }
  replaced_ = std::make_unique<ReplacedFile>(place_, unfinished(), ReplacedFile::Way::exchanged);
  const auto exchanged = sys::exchange_names(directory(), unfinished().c_str(), place_.name.c_str());
  if (!exchanged.ok()) {
    if (is_unsupported(exchanged.error)) {
      traits().exchanges_names.store(false);
      return std::nullopt;
    }
    return failure(exchanged.code(), "renameat2", place_);
  }
  // Where that cannot be looked at, nothing says that it is another one.
  if (names_inode(candidate_->temporary()->place().view(), judged.file).answer == Step::Answer::other) {
    return exchange_back();
  }
  if (can_be_undone_) {
    candidate_->temporary()->forget();
    guard.keep();
    keep(std::move(judged));
  }
  return Reclaim::done;
}

// 1. A compares the judged inode with the path. 2. A program that deletes locks without the protocol deletes it, and B
// publishes. 3. A's exchange takes B's lock from the path. 4. A sees it, and gives B's lock its name back.
Reclaim OwnFile::exchange_back() {
  const InodeGuard guard = InodeGuard::enter(place_.view(), candidate_->fd().get(), candidate_->file());
  if (guard.is_entered() && sys::exchange_names(directory(), unfinished().c_str(), place_.name.c_str()).ok()) {
    return Reclaim::replaced;
  }
  // Another process has removed the own file at once, by force; or the file system does not know the flag, and renamed.
  candidate_->temporary()->forget();
  return has_its_name() ? Reclaim::done : Reclaim::replaced;
}

Result<Reclaim> OwnFile::link_and_rename(PinnedInode& judged, InodeGuard& guard) {
  Place kept{place_.directory, temporary_name(place_.name, other_id(publication_.id))};
  replaced_ = std::make_unique<ReplacedFile>(place_, kept.name, ReplacedFile::Way::renamed);
  const auto linked = sys::linkat(directory(), place_.name.c_str(), directory(), kept.name.c_str(), 0);
  if (is_link_refused(linked.error)) {
    return copy_and_rename(judged);
  }
  if (!linked.ok()) {
    return failure(linked.code(), "linkat", place_);
  }
  TemporaryName kept_name(std::move(kept));
  // Where each name is a file of its own to the kernel, the second one has another number.
  if (!traits().locks_are_per_name.load()) {
    const Step same = names_inode(kept_name.place().view(), judged.file);
    if (same.answer != Step::Answer::done) {
      return same.answer == Step::Answer::failed ? tl::unexpected(to_error(same, place_.path()))
                                                 : Result<Reclaim>(Reclaim::replaced);
    }
  }
  if (auto renamed = rename(); !renamed) {
    return tl::unexpected(std::move(renamed).error());
  }
  kept_name.forget();
  guard.keep();
  keep(std::move(judged));
  return Reclaim::done;
}

/// The copy is made before the take-over, so that putting it back takes a rename and no room.
Result<Reclaim> OwnFile::copy_and_rename(PinnedInode& judged) {
  if (traits().local) {
    // The record declares a witness on this very inode (`declare_witness`), so that a copy could not be judged.
    auto renamed = rename();
    return renamed ? Result<Reclaim>(Reclaim::done) : tl::unexpected(std::move(renamed).error());
  }
  PinnedFile former{std::move(judged), {}};
  auto read = read_again(former, place_);
  judged = std::move(static_cast<PinnedInode&>(former));
  if (!read || !former.content) {
    return read ? failure(former.content.error(), "read lock", place_) : tl::unexpected(std::move(read).error());
  }
  const std::string id = other_id(publication_.id);
  const Publication publication{publication_.mode, id, false, [&](const FileIdentity*) { return former.content->text; },
                                publication_.permissions};
  std::optional<Candidate> copy;
  auto made = make_unfinished(place_, publication, copy);
  if (made) {
    const auto dated = sys::set_modification_time(copy->fd().get(), judged.modified);
    made = dated.ok() ? Result<void>{} : failure(dated.code(), "futimens", place_);
  }
  if (made) {
    made = rename();
  }
  if (!made) {
    return tl::unexpected(std::move(made).error());
  }
  copy->temporary()->forget();
  PublishedFile kept = copy->take();
  InodeGuard::lock(place_.view(), kept.fd.get()).keep();  // nobody else has opened it
  keep({std::move(kept.fd), kept.file, judged.modified});
  return Reclaim::done;
}

Result<void> OwnFile::rename() {
  const auto renamed = sys::rename_over(directory(), unfinished().c_str(), place_.name.c_str());
  if (!renamed.ok()) {
    return failure(renamed.code(), "renameat", place_);
  }
  candidate_->temporary()->forget();
  return {};
}

PublishedFile OwnFile::take() {
  PublishedFile file = candidate_->take();
  take_undeclared_witness(file, place_, publication_);
  if (replaced_ && replaced_->is_kept()) {
    file.replaced = std::move(replaced_);
  }
  return file;
}

/// A reclaim whose successor is the caller's own file.
template <class F>
Result<TakeOver> take_over_with(OwnFile& own, F&& reclaim_with) {
  Result<Reclaim> ended = reclaim_with(&own);
  if (!ended && ended.error().code == std::errc::no_such_file_or_directory) {
    // The candidate was swept away at the last moment; or a network file system renamed it and lost its reply.
    ended = own.has_its_name() ? Reclaim::done : Reclaim::replaced;
  }
  if (!ended) {
    return tl::unexpected(std::move(ended).error());
  }
  return *ended == Reclaim::done ? TakeOver{Reclaim::done, own.take()} : TakeOver{*ended, std::nullopt};
}

}  // namespace

Result<TakeOver> take_over(const Place& place, PinnedFile& pinned, const Judge& judge_again,
                           const Publication& publication) {
  OwnFile own(place, publication, OwnFile::Undo::none);
  return take_over_with(own, [&](Successor* successor) { return reclaim(place, pinned, judge_again, successor); });
}

Result<TakeOver> take_over(const Place& place, PinnedLock& pinned, Inspection& inspection,
                           const InspectionContext& context, const Publication& publication) {
  OwnFile own(place, publication, OwnFile::Undo::possible);
  auto taken =
      take_over_with(own, [&](Successor* successor) { return reclaim(place, pinned, inspection, context, successor); });
  inspection.removed = taken && taken->outcome == Reclaim::done;
  return taken;
}

}  // namespace sessionlock
