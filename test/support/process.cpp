#include "process.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <mutex>
#include <set>
#include <system_error>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

namespace sessionlock::test {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int k_exit_not_started = 127;
constexpr int k_exit_not_allowed = 126;

[[noreturn]] void throw_errno(const std::string& what) {
  throw std::system_error(errno, std::system_category(), what);
}

/// Ends of channels that belong to this process and to no child of it. Whoever makes a pair and forks holds the mutex
/// from before the one until after the other, so that no other thread's child gets a copy that keeps a stream open.
std::mutex g_own_ends_mutex;
std::set<int> g_own_ends;

void own(int fd) {
  if (fd >= 0) {
    const std::lock_guard lock(g_own_ends_mutex);
    g_own_ends.insert(fd);
  }
}

void disown_and_close(int fd) {
  if (fd >= 0) {
    const std::lock_guard lock(g_own_ends_mutex);
    g_own_ends.erase(fd);
    ::close(fd);
  }
}

int milliseconds_left(Clock::time_point deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::max<std::int64_t>(left, 0));
}

/// Waits until a descriptor can be read. False when `k_patience` is exhausted.
bool wait_readable(int fd) {
  const auto deadline = Clock::now() + k_patience;
  while (true) {
    struct pollfd entry {
      fd, POLLIN, 0
    };
    const int ready = ::poll(&entry, 1, milliseconds_left(deadline));
    if (ready > 0 || (ready < 0 && errno != EINTR)) {
      return ready > 0;
    }
    if (ready == 0) {
      return false;
    }
  }
}

/// Writes without letting SIGPIPE end the test; its disposition stays untouched, because programs inherit it.
ssize_t write_without_sigpipe(int fd, const char* data, std::size_t size) {
  sigset_t pipe_signal;
  sigset_t before;
  sigset_t pending;
  ::sigemptyset(&pipe_signal);
  ::sigaddset(&pipe_signal, SIGPIPE);
  ::sigpending(&pending);
  const bool was_pending = ::sigismember(&pending, SIGPIPE) == 1;
  ::pthread_sigmask(SIG_BLOCK, &pipe_signal, &before);
  const ssize_t written = ::write(fd, data, size);
  const int error = errno;
  if (written < 0 && error == EPIPE && !was_pending) {
    const struct timespec at_once {};
    ::sigtimedwait(&pipe_signal, nullptr, &at_once);
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  errno = error;
  return written;
}

Ended to_ended(int status) {
  Ended ended;
  if (WIFEXITED(status)) {
    ended.exit_code = WEXITSTATUS(status);
  } else if (WIFSIGNALED(status)) {
    ended.signal = WTERMSIG(status);
  }
  return ended;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  result.reserve(texts.size() + 1);
  for (auto& text : texts) {
    result.push_back(text.data());
  }
  result.push_back(nullptr);
  return result;
}

std::vector<std::string> environment_with(const std::vector<std::string>& additions) {
  std::vector<std::string> result;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const auto name = text.substr(0, text.find('=') + 1);
    const bool replaced = std::any_of(additions.begin(), additions.end(),
                                      [&](const std::string& addition) { return addition.starts_with(name); });
    if (!replaced) {
      result.emplace_back(text);
    }
  }
  result.insert(result.end(), additions.begin(), additions.end());
  return result;
}

/// Everything an exec needs, made before the fork: after it only async-signal-safe calls are allowed.
struct PreparedExec {
  explicit PreparedExec(const std::vector<std::string>& command, const ExecOptions& options)
      : arguments(command),
        environment(environment_with(options.environment)),
        argument_pointers(pointers(arguments)),
        environment_pointers(pointers(environment)),
        directory(options.working_directory.string()) {}
  [[noreturn]] void go(int in, int out, int error) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if ((!directory.empty() && ::chdir(directory.c_str()) != 0) || ::dup2(in, 0) < 0 || ::dup2(out, 1) < 0 ||
        (error >= 0 && ::dup2(error, 2) < 0)) {
      ::_exit(k_exit_not_started);
    }
    ::execvpe(argument_pointers[0], argument_pointers.data(), environment_pointers.data());
    ::_exit(k_exit_not_started);
  }
  std::vector<std::string> arguments;
  std::vector<std::string> environment;
  std::vector<char*> argument_pointers;
  std::vector<char*> environment_pointers;
  std::string directory;
};

/// Runs a child's function; what it throws is told on standard error.
int run_body(const std::function<int(Channel&)>& body, Channel& channel) {
  try {
    return body(channel);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "in child %d: %s\n", static_cast<int>(::getpid()), error.what());
  } catch (...) {
    std::fprintf(stderr, "in child %d: an unknown exception\n", static_cast<int>(::getpid()));
  }
  return 1;
}

Ended wait_for_pid(pid_t pid) {
  const int handle = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
  if (handle < 0) {
    throw_errno("pidfd_open");
  }
  const bool in_time = wait_readable(handle);
  ::close(handle);
  if (!in_time) {
    ::kill(pid, SIGKILL);
  }
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) {
      throw_errno("waitpid");
    }
  }
  if (!in_time) {
    throw ProcessFailure("child " + std::to_string(pid) + " did not end");
  }
  return to_ended(status);
}

bool write_file(const char* path, const std::string& text) {
  const int fd = ::open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) {
    return false;
  }
  const bool written = ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  ::close(fd);
  return written;
}

/// Ends a child that cannot enter its namespaces; the parent turns the line into `why_not`.
[[noreturn]] void not_allowed(Channel& parent, const std::string& what) {
  parent.tell(what + ": " + std::strerror(errno));
  ::_exit(k_exit_not_allowed);
}

void enter_namespaces(const Namespaces& namespaces, Channel& parent) {
  const uid_t uid = ::geteuid();
  const gid_t gid = ::getegid();
  if (::unshare(namespaces.flags) != 0) {
    if (errno != EPERM || ::unshare(namespaces.flags | CLONE_NEWUSER) != 0) {
      not_allowed(parent, "unshare");
    }
    if (!write_file("/proc/self/setgroups", "deny") ||
        !write_file("/proc/self/uid_map", "0 " + std::to_string(uid) + " 1") ||
        !write_file("/proc/self/gid_map", "0 " + std::to_string(gid) + " 1")) {
      not_allowed(parent, "uid_map");
    }
  }
  if (namespaces.boottime_offset.count() != 0 &&
      !write_file("/proc/self/timens_offsets",
                  "boottime " + std::to_string(namespaces.boottime_offset.count()) + " 0")) {
    not_allowed(parent, "timens_offsets");
  }
  if ((namespaces.flags & CLONE_NEWNS) != 0 && ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    not_allowed(parent, "making mounts private");
  }
}

}  // namespace

void skip_aloud(std::string_view reason) {
  std::cout << "SKIPPED: " << reason << std::endl;
}

void wait_until(std::string_view what, const std::function<bool()>& condition) {
  const auto deadline = Clock::now() + k_patience;
  while (!condition()) {
    if (Clock::now() > deadline) {
      throw ProcessFailure("never came true: " + std::string(what));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds{1});
  }
}

void fail_in_child(const char* file, int line, const char* condition) {
  throw ProcessFailure(std::string(file) + ":" + std::to_string(line) + ": not true: " + condition);
}

// --- Channel ---------------------------------------------------------------------------------------------------------

Channel::Channel(int in, int out) : in_(in), out_(out) {
  own(in_);
  own(out_);
}

Channel::Channel(Channel&& other) noexcept
    : in_(std::exchange(other.in_, -1)), out_(std::exchange(other.out_, -1)), pending_(std::move(other.pending_)) {}

Channel& Channel::operator=(Channel&& other) noexcept {
  std::swap(in_, other.in_);
  std::swap(out_, other.out_);
  std::swap(pending_, other.pending_);
  return *this;
}

Channel::~Channel() {
  finish();
  disown_and_close(in_);
}

bool Channel::tell(std::string_view line) {
  return tell_raw(std::string(line) + "\n");
}

bool Channel::tell_raw(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write_without_sigpipe(out_, bytes.data(), bytes.size());
    if (written < 0 && errno != EINTR) {
      return false;
    }
    bytes.remove_prefix(written < 0 ? 0 : static_cast<std::size_t>(written));
  }
  return true;
}

bool Channel::read_more() {
  std::array<char, 4096> buffer{};
  while (true) {
    if (!wait_readable(in_)) {
      throw ProcessFailure("heard nothing from the other process");
    }
    const ssize_t size = ::read(in_, buffer.data(), buffer.size());
    if (size > 0) {
      pending_.append(buffer.data(), static_cast<std::size_t>(size));
    }
    if (size >= 0 || errno != EINTR) {
      return size > 0;
    }
  }
}

std::optional<std::string> Channel::hear() {
  std::size_t end = 0;
  while ((end = pending_.find('\n')) == std::string::npos) {
    if (!read_more()) {
      return pending_.empty() ? std::nullopt : std::optional(std::exchange(pending_, {}));
    }
  }
  std::string line = pending_.substr(0, end);
  pending_.erase(0, end + 1);
  return line;
}

void Channel::expect(std::string_view line) {
  if (const auto heard = hear(); heard != line) {
    throw ProcessFailure("expected \"" + std::string(line) + "\", heard " +
                         (heard ? "\"" + *heard + "\"" : std::string("the end")));
  }
}

std::string Channel::hear_all() {
  while (read_more()) {
  }
  return std::exchange(pending_, {});
}

void Channel::finish() {
  if (out_ >= 0) {
    ::shutdown(out_, SHUT_WR);  // of a socket, which the reading side may share
  }
  disown_and_close(std::exchange(out_, -1));
}

namespace {

/// Ends a forked child without its parent's clean-up.
[[noreturn]] void end_child(int code) {
  std::fflush(nullptr);
  ::_exit(code);
}

}  // namespace

// --- ChildProcess ----------------------------------------------------------------------------------------------------

ChildProcess ChildProcess::fork_child(const std::function<int(Channel&)>& body, bool through_exit) {
  std::fflush(nullptr);
  std::unique_lock lock(g_own_ends_mutex);
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    throw_errno("socketpair");
  }
  const pid_t pid = ::fork();
  if (pid < 0) {
    throw_errno("fork");
  }
  if (pid == 0) {
    lock.unlock();
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::close(ends[0]);
    for (const int fd : std::exchange(g_own_ends, {})) {
      ::close(fd);
    }
    Channel channel(ends[1], ::fcntl(ends[1], F_DUPFD_CLOEXEC, 0));
    const int code = run_body(body, channel);
    if (through_exit) {
      std::fflush(nullptr);
      std::exit(code);
    }
    end_child(code);
  }
  ::close(ends[1]);
  ends[1] = ::fcntl(ends[0], F_DUPFD_CLOEXEC, 0);
  g_own_ends.insert(ends.begin(), ends.end());
  lock.unlock();
  return {pid, Channel(ends[0], ends[1])};
}

ChildProcess ChildProcess::run(const std::function<int(Channel&)>& body) {
  return fork_child(body, false);
}

ChildProcess ChildProcess::run_to_exit(const std::function<int(Channel&)>& body) {
  return fork_child(body, true);
}

ChildProcess ChildProcess::exec(const std::vector<std::string>& command, const ExecOptions& options) {
  PreparedExec prepared(command, options);
  std::unique_lock lock(g_own_ends_mutex);
  std::array<int, 2> in{};
  std::array<int, 2> out{};
  if (::pipe2(in.data(), O_CLOEXEC) != 0 || ::pipe2(out.data(), O_CLOEXEC) != 0) {
    throw_errno("pipe2");
  }
  const pid_t pid = ::fork();
  if (pid < 0) {
    throw_errno("fork");
  }
  if (pid == 0) {
    prepared.go(in[0], out[1], -1);
  }
  ::close(in[0]);
  ::close(out[1]);
  g_own_ends.insert({out[0], in[1]});
  lock.unlock();
  return {pid, Channel(out[0], in[1])};
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), channel_(std::move(other.channel_)), ended_(other.ended_) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  if (this != &other) {
    dispose();
    pid_ = std::exchange(other.pid_, -1);
    channel_ = std::move(other.channel_);
    ended_ = other.ended_;
  }
  return *this;
}

ChildProcess::~ChildProcess() {
  dispose();
}

void ChildProcess::dispose() noexcept {
  if (pid_ > 0 && !ended_) {
    ::kill(pid_, SIGKILL);
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  pid_ = -1;
}

void ChildProcess::send_signal(int number) const {
  if (pid_ <= 0 || ended_ || ::kill(pid_, number) != 0) {
    throw ProcessFailure("no child to signal");
  }
}

void ChildProcess::stop() const {
  send_signal(SIGSTOP);
  siginfo_t info{};
  while (::waitid(P_PID, static_cast<id_t>(pid_), &info, WSTOPPED | WEXITED | WNOWAIT) != 0) {
    if (errno != EINTR) {
      throw_errno("waitid");
    }
  }
  if (info.si_code != CLD_STOPPED) {
    throw ProcessFailure("the child ended instead of stopping");
  }
}

void ChildProcess::resume() const {
  send_signal(SIGCONT);
}

void ChildProcess::wait_until_zombie() const {
  wait_until("the child has ended", [this] {
    siginfo_t info{};
    return ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT | WNOHANG) == 0 && info.si_pid == pid_;
  });
}

Ended ChildProcess::wait() {
  if (!ended_) {
    ended_ = wait_for_pid(pid_);
  }
  return *ended_;
}

Ended ChildProcess::kill() {
  if (!ended_) {
    send_signal(SIGKILL);
  }
  return wait();
}

ChildProcess idle_process() {
  auto child = ChildProcess::run([](Channel& parent) {
    parent.tell("here");
    (void)parent.hear();
    return 0;
  });
  child.expect("here");
  return child;
}

namespace {

pid_t raw_clone() {
  return static_cast<pid_t>(::syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr));
}

}  // namespace

const std::array<ForkWay, 3> k_fork_ways{{{"fork", ::fork}, {"_Fork", ::_Fork}, {"clone", raw_clone}}};

int exit_code_in(const ForkWay& way, const std::function<int()>& body) {
  const pid_t child = way.fork();
  if (child == 0) {
    ::_exit(body());
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) {
      return -1;
    }
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

CommandResult run_command(const std::vector<std::string>& command, std::string_view input, const ExecOptions& options) {
  PreparedExec prepared(command, options);
  // Files in memory: unlike with pipes neither side can block the other.
  std::array<int, 3> files{};
  for (int& fd : files) {
    if ((fd = ::memfd_create("standard stream", MFD_CLOEXEC)) < 0) {
      throw_errno("memfd_create");
    }
  }
  if (::pwrite(files[0], input.data(), input.size(), 0) != static_cast<ssize_t>(input.size())) {
    throw_errno("pwrite");
  }
  const pid_t pid = ::fork();
  if (pid < 0) {
    throw_errno("fork");
  }
  if (pid == 0) {
    prepared.go(files[0], files[1], files[2]);
  }
  CommandResult result;
  result.ended = wait_for_pid(pid);
  const auto read_back = [](int fd) {
    std::string text(static_cast<std::size_t>(std::max<off_t>(::lseek(fd, 0, SEEK_END), 0)), '\0');
    text.resize(static_cast<std::size_t>(std::max<ssize_t>(::pread(fd, text.data(), text.size(), 0), 0)));
    return text;
  };
  result.out = read_back(files[1]);
  result.error = read_back(files[2]);
  for (const int fd : files) {
    ::close(fd);
  }
  return result;
}

// --- namespaces, users, file systems ---------------------------------------------------------------------------------

NamespaceRun run_in_namespaces(const Namespaces& namespaces, const std::function<int(Channel&)>& body,
                               std::string_view input) {
  // The first child enters; the second is inside, because PID and time namespaces take in only later children.
  auto outer = ChildProcess::run([&](Channel& parent) {
    enter_namespaces(namespaces, parent);
    std::fflush(nullptr);
    const pid_t inner = ::fork();
    if (inner < 0) {
      not_allowed(parent, "fork");
    }
    if (inner == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      const int fresh = CLONE_NEWPID | CLONE_NEWNS;
      if (namespaces.mount_proc && (namespaces.flags & fresh) == fresh &&
          ::mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0) {
        not_allowed(parent, "mounting /proc");
      }
      end_child(run_body(body, parent));
    }
    const Ended ended = wait_for_pid(inner);
    return ended.signal != 0 ? 128 + ended.signal : ended.exit_code;
  });
  outer.channel().tell_raw(input);
  outer.channel().finish();
  NamespaceRun result;
  result.output = outer.channel().hear_all();
  result.ended = outer.wait();
  if (result.ended.exited_with(k_exit_not_allowed)) {
    result.why_not = result.output.substr(0, result.output.find('\n'));
  }
  return result;
}

bool can_become_second_user() {
  // To be root is not enough: inside a user namespace the other user may not exist.
  auto child = ChildProcess::run([](Channel&) {
    try {
      become_second_user();
    } catch (const std::system_error&) {
      return 1;
    }
    return 0;
  });
  return child.wait().exited_with(0);
}

void become_user(uid_t user, gid_t group) {
  if (::setgroups(0, nullptr) != 0 || ::setresgid(group, group, group) != 0 || ::setresuid(user, user, user) != 0) {
    throw_errno("becoming another user");
  }
  // As an exec would restore it: otherwise its own /proc files belong to root.
  ::prctl(PR_SET_DUMPABLE, 1);
}

void become_second_user() {
  become_user(k_second_uid, k_second_uid);
}

TemporaryDirectory::TemporaryDirectory() : owner_(::getpid()) {
  const char* base = std::getenv("TMPDIR");
  std::string name = std::string(base != nullptr && *base != '\0' ? base : "/tmp") + "/sessionlock-test-XXXXXX";
  if (::mkdtemp(name.data()) == nullptr) {
    throw_errno(name);
  }
  path_ = std::filesystem::canonical(name);
}

TemporaryDirectory::~TemporaryDirectory() {
  if (owner_ == ::getpid()) {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
}

std::optional<TmpfsMount> TmpfsMount::mount(const std::string& options, std::string* why_not) {
  static pid_t entered = 0;
  const auto refuse = [why_not](const char* what) {
    if (why_not != nullptr) {
      *why_not = std::string(what) + ": " + std::strerror(errno);
    }
    return std::nullopt;
  };
  if (entered != ::getpid()) {
    if (::unshare(CLONE_NEWNS) != 0) {
      return refuse("unshare");
    }
    if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
      return refuse("making mounts private");
    }
    entered = ::getpid();
  }
  auto directory = std::make_unique<TemporaryDirectory>();
  if (::mount("sessionlock-test", directory->path().c_str(), "tmpfs", MS_NOSUID | MS_NODEV, options.c_str()) != 0) {
    return refuse("mount");
  }
  return TmpfsMount(std::move(directory));
}

TmpfsMount::TmpfsMount(std::unique_ptr<TemporaryDirectory> directory)
    : directory_(std::move(directory)), owner_(::getpid()) {}

TmpfsMount::TmpfsMount(TmpfsMount&& other) noexcept = default;

TmpfsMount::~TmpfsMount() {
  if (directory_ && owner_ == ::getpid()) {
    ::umount2(directory_->path().c_str(), MNT_DETACH);
  }
}

bool TmpfsMount::remount(const std::string& options) const {
  unsigned long flags = MS_REMOUNT | MS_NOSUID | MS_NODEV;
  if (options == "ro") {
    return ::mount("sessionlock-test", path().c_str(), "tmpfs", flags | MS_RDONLY, nullptr) == 0;
  }
  return ::mount("sessionlock-test", path().c_str(), "tmpfs", flags, options.c_str()) == 0;
}

std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_text(const std::filesystem::path& path, std::string_view text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (!file) {
    throw ProcessFailure("cannot write " + path.string());
  }
}

}  // namespace sessionlock::test
