#include "lock_tools.hpp"

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sessionlock/process_identity.hpp>

#include "text/timestamp.hpp"

namespace sessionlock::test {
namespace {

[[noreturn]] void throw_errno(const std::filesystem::path& path) {
  throw std::system_error(errno, std::system_category(), path.string());
}

thread_local bool t_inside = false;

}  // namespace

Answer outermost(Answer answer) {
  return [answer = std::move(answer)](const sys::CallInfo& info) {
    if (std::exchange(t_inside, true)) {
      return 0;
    }
    const int error = answer(info);
    t_inside = false;
    return error;
  };
}

Answer once_before(Moment moment, std::function<void()> act) {
  return outermost([moment = std::move(moment), act = std::move(act), done = false](const sys::CallInfo& info) mutable {
    if (!done && moment(info)) {
      done = true;
      act();
    }
    return 0;
  });
}

SessionLock held(Result<SessionLock> lock) {
  return value_or_throw(std::move(lock));
}

Place place_in(const std::filesystem::path& directory, const std::string& name) {
  auto opened = open_directory(directory);
  if (!opened) {
    throw std::runtime_error(opened.error().message());
  }
  return {std::move(*opened), name};
}

SessionLocation located(const std::filesystem::path& session, const LocateOptions& options) {
  return value_or_throw(locate(session, options));
}

std::vector<std::string> names_in(const std::filesystem::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string created_at_ago(std::chrono::milliseconds age) {
  return format_rfc3339(sys::wall_clock() - age);
}

LockRecord own_record() {
  const ProcessIdentity self = this_process();
  LockRecord record;
  record.pid = self.pid;
  record.created_at = created_at_ago(std::chrono::milliseconds{0});
  record.starttime = self.start_time_ticks;
  record.lock_id = "0123456789abcdef0123456789abcdef";
  record.boot_id = self.boot_id;
  record.pid_namespace = self.pid_namespace;
  record.time_namespace = self.time_namespace;
  return record;
}

std::string foreign_record(pid_t pid, std::string_view starttime, std::chrono::milliseconds age) {
  std::string text = "{\"pid\": " + std::to_string(pid) + ", \"createdAt\": \"" + created_at_ago(age) + "\"";
  if (!starttime.empty()) {
    text += ", \"starttime\": " + std::string(starttime);
  }
  return text + "}\n";
}

void plant(const std::filesystem::path& lock, std::string_view text) {
  const int fd = ::open(lock.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR);
  if (fd < 0) {
    throw_errno(lock);
  }
  const auto written = ::write(fd, text.data(), text.size());
  ::close(fd);
  if (written != static_cast<ssize_t>(text.size())) {
    throw_errno(lock);
  }
}

namespace {

void make_node(const std::filesystem::path& path, mode_t kind, dev_t device) {
  if (::mknod(path.c_str(), kind | S_IRUSR | S_IWUSR, device) != 0) {
    throw_errno(path);
  }
}

}  // namespace

const std::vector<StrangeNode>& strange_nodes() {
  using std::filesystem::path;
  constexpr dev_t k_whiteout{};  // a device that needs no privilege to be made
  static const std::vector<StrangeNode> nodes{
      {"a symbolic link, which is not followed",
       [](const path& at) {
         plant(at.parent_path() / "target", foreign_record(dead_pid()));
         std::filesystem::create_symlink("target", at);
       }},
      {"a directory, which is left alone", [](const path& at) { std::filesystem::create_directory(at); }},
      {"a FIFO, which is left alone", [](const path& at) { make_node(at, S_IFIFO, 0); }},
      {"a socket, which is left alone", [](const path& at) { make_node(at, S_IFSOCK, 0); }},
      {"a device, which is left alone", [](const path& at) { make_node(at, S_IFCHR, k_whiteout); }}};
  return nodes;
}

void make_older(const std::filesystem::path& file, std::chrono::seconds age) {
  struct timespec now {};
  ::clock_gettime(CLOCK_REALTIME, &now);
  now.tv_sec -= age.count();
  const struct timespec times[2] = {now, now};
  if (::utimensat(AT_FDCWD, file.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0) {
    throw_errno(file);
  }
}

std::uint64_t inode_of(const std::filesystem::path& file) {
  struct stat status {};
  return ::lstat(file.c_str(), &status) == 0 ? static_cast<std::uint64_t>(status.st_ino) : 0;
}

bool is_unguarded(const std::filesystem::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const bool locked = fd >= 0 && ::flock(fd, LOCK_EX | LOCK_NB) == 0;
  ::close(fd);
  return locked;
}

void retry_releases() {
  (void)SessionLock().release();
}

pid_t dead_pid() {
  auto child = ChildProcess::run([](Channel&) { return 0; });
  const pid_t pid = child.pid();
  (void)child.wait();
  return pid;
}

Result<SessionLock> try_lock(const std::filesystem::path& session, const StalePolicy& policy) {
  AcquireOptions options;
  options.stale = policy;
  return LockManager().try_acquire(session, options);
}

ChildProcess holder_of(const std::filesystem::path& session, const AcquireOptions& options) {
  auto child = ChildProcess::run([&](Channel& parent) {
    auto lock = LockManager().acquire(session, options);
    if (!lock) {
      throw ProcessFailure(lock.error().message());
    }
    parent.tell("held");
    (void)parent.hear();
    const auto released = lock->release();
    parent.tell(released ? "released" : released.error().message());
    (void)parent.hear();
    return 0;
  });
  child.expect("held");
  return child;
}

std::string start_of(pid_t pid) {
  const auto start = process_start_time(pid);
  if (!start) {
    throw ProcessFailure("no start time of pid " + std::to_string(pid));
  }
  return std::to_string(*start);
}

}  // namespace sessionlock::test
