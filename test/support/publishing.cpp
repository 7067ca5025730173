#include "publishing.hpp"

#include <cerrno>
#include <string_view>
#include <utility>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "process.hpp"

namespace sessionlock::test {
namespace {

/// The attempt to make a nameless file.
bool makes_nameless(const sys::CallInfo& info) {
  return is(info, sys::Call::openat) && std::string_view(info.path) == ".";
}

}  // namespace

void in_fresh_process(const std::function<void()>& body) {
  CHECK(ChildProcess::run([&body](Channel&) {
          body();
          return 0;
        })
            .wait()
            .exited_with(0));
}

int no_nameless_files(const sys::CallInfo& info) {
  return makes_nameless(info) ? EOPNOTSUPP : 0;
}
int no_hard_links(const sys::CallInfo& info) {
  return is(info, sys::Call::linkat) ? EPERM : no_nameless_files(info);
}

std::vector<Pretence> pretences() {
  return {
      {"everything", [](const sys::CallInfo&) { return 0; }, Naming::empty_path},
      {"no AT_EMPTY_PATH",
       [first = true](const sys::CallInfo& info) mutable {
         return is(info, sys::Call::linkat) && std::exchange(first, false) ? ENOENT : 0;
       },
       Naming::descriptor_link},
      {"no AT_EMPTY_PATH, said otherwise",
       [first = true](const sys::CallInfo& info) mutable {
         return is(info, sys::Call::linkat) && std::exchange(first, false) ? EACCES : 0;
       },
       Naming::descriptor_link},
      {"no O_TMPFILE", no_nameless_files, Naming::temporary_link},
      {"no O_TMPFILE, as old kernels say it",
       [](const sys::CallInfo& info) { return makes_nameless(info) ? EISDIR : 0; }, Naming::temporary_link},
      {"no /proc and no capability",
       [left = 2](const sys::CallInfo& info) mutable { return is(info, sys::Call::linkat) && left-- > 0 ? ENOENT : 0; },
       Naming::temporary_link},
      {"no links of nameless files",
       [left = 2](const sys::CallInfo& info) mutable { return is(info, sys::Call::linkat) && left-- > 0 ? EPERM : 0; },
       Naming::temporary_link},
      {"no /proc at all",
       [](const sys::CallInfo& info) {
         return info.path != nullptr && std::string_view(info.path).starts_with("/proc/") ? ENOENT : 0;
       },
       Naming::temporary_link},
      {"no hard links", no_hard_links, Naming::temporary_rename},
      {"no hard links, said otherwise",
       [](const sys::CallInfo& info) { return is(info, sys::Call::linkat) ? EOPNOTSUPP : no_nameless_files(info); },
       Naming::temporary_rename},
  };
}

Result<PublishAttempt> publish_own(const Place& place) {
  LockRecord record = own_record();
  return publish(place, record, {});
}

PublishedLock published(const Place& place, const LockPermissions& permissions) {
  LockRecord record = own_record();
  auto attempt = publish(place, record, permissions);
  if (!attempt) {
    throw ProcessFailure(attempt.error().message());
  }
  if (attempt->outcome != PublishOutcome::published) {
    throw ProcessFailure("not published");
  }
  return {std::move(*attempt->file), std::move(record)};
}

PinnedLock pinned_at(const Place& place) {
  auto pinned = pin(place);
  if (!pinned || !pinned->has_value()) {
    throw ProcessFailure(pinned ? "nothing to pin" : pinned.error().message());
  }
  return std::move(**pinned);
}

SecondDescription::SecondDescription(const std::filesystem::path& path)
    : fd_(::open(path.c_str(), O_RDWR | O_CLOEXEC)) {}

SecondDescription::~SecondDescription() {
  ::close(fd_);
}

bool SecondDescription::can_flock() const {
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    return false;
  }
  ::flock(fd_, LOCK_UN);
  return true;
}

void SecondDescription::flock() const {
  REQUIRE(::flock(fd_, LOCK_EX | LOCK_NB) == 0);
}

}  // namespace sessionlock::test
