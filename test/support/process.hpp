#pragma once

/// \file
/// Real processes for the tests: children that run a function or a program, namespaces, a second user, small file
/// systems, temporary directories.
///
/// What a child does is judged in the parent: doctest's counters do not cross a fork. A child function returns its exit
/// code and uses `REQUIRE_IN_CHILD`, whose failure is printed and ends the child with 1; the parent then checks
/// `wait()`. Every wait is bounded by `k_patience`, far longer than anything takes, and throws when that is exhausted,
/// so a hang becomes a failed test and speed never decides. What needs a privilege returns `none` with a reason, for
/// `skip_aloud`.
///
///     auto child = ChildProcess::run([](Channel& parent) {
///       parent.tell("ready");
///       parent.expect("go");
///       REQUIRE_IN_CHILD(2 + 2 == 4);
///       return 0;
///     });
///     child.expect("ready");
///     child.tell("go");
///     CHECK(child.wait().exited_with(0));

#include <array>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

namespace sessionlock::test {

/// Bound against hanging; nothing is decided by it.
inline constexpr std::chrono::seconds k_patience{60};

/// Prints `SKIPPED: reason`, which the checks of the whole suite look for. The test case returns after it.
void skip_aloud(std::string_view reason);

/// A wait that exhausted `k_patience`, or a peer that said something else than expected.
struct ProcessFailure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Asks again and again until the condition is true. Throws `ProcessFailure`, naming `what`, if it never is.
void wait_until(std::string_view what, const std::function<bool()>& condition);

[[noreturn]] void fail_in_child(const char* file, int line, const char* condition);
/// Ends a child function with exit code 1 and a message on standard error.
#define REQUIRE_IN_CHILD(...)                                               \
  do {                                                                      \
    if (!(__VA_ARGS__)) {                                                   \
      ::sessionlock::test::fail_in_child(__FILE__, __LINE__, #__VA_ARGS__); \
    }                                                                       \
  } while (false)

/// One end of a two-way line to another process. Lines carry no newline here. Move-only; closes its descriptors, which
/// are close-on-exec and closed in every other child.
class Channel {
 public:
  Channel() = default;
  Channel(int in, int out);
  Channel(Channel&& other) noexcept;
  Channel& operator=(Channel&& other) noexcept;
  ~Channel();

  /// Sends a line. False if the other side is gone.
  bool tell(std::string_view line);
  /// Sends bytes as they are.
  bool tell_raw(std::string_view bytes);
  /// The next line, or none at the end of the stream. A last line without a newline counts.
  [[nodiscard]] std::optional<std::string> hear();
  /// Hears exactly this line, or throws.
  void expect(std::string_view line);
  /// Everything up to the end of the stream.
  [[nodiscard]] std::string hear_all();
  /// Ends what is told: the other side reads the end of its stream.
  void finish();

 private:
  [[nodiscard]] bool read_more();
  int in_{-1};
  int out_{-1};
  std::string pending_{};
};

/// How a process ended.
struct Ended {
  int exit_code{-1};
  int signal{0};
  [[nodiscard]] bool exited_with(int code) const { return signal == 0 && exit_code == code; }
  [[nodiscard]] bool killed_by(int number) const { return signal == number; }
};

/// How a program is started.
struct ExecOptions {
  /// `NAME=value` each, added to the test's own environment.
  std::vector<std::string> environment{};
  std::filesystem::path working_directory{};
};

/// A child of this process; killed and reaped at the latest by the destructor. Its parent-death signal kills it if the
/// *thread* that started it ends, so children are started from a thread that outlives them. Move-only.
class ChildProcess {
 public:
  /// Forks a child that runs `body` and leaves with its result through `_exit`: no destructors, no exit handlers.
  static ChildProcess run(const std::function<int(Channel&)>& body);
  /// As `run`, but leaves through `std::exit`, for tests of exit handlers.
  static ChildProcess run_to_exit(const std::function<int(Channel&)>& body);
  /// Starts a program with its standard input and output at the channel. 127 if it cannot be started.
  static ChildProcess exec(const std::vector<std::string>& command, const ExecOptions& options = {});

  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ~ChildProcess();

  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] Channel& channel() { return channel_; }
  bool tell(std::string_view line) { return channel_.tell(line); }
  [[nodiscard]] std::optional<std::string> hear() { return channel_.hear(); }
  void expect(std::string_view line) { channel_.expect(line); }

  void send_signal(int number) const;
  /// SIGSTOP; returns once it is stopped.
  void stop() const;
  /// SIGCONT.
  void resume() const;
  /// Waits until it has ended, and leaves it a zombie.
  void wait_until_zombie() const;
  /// Waits until it has ended, and reaps it. Further calls repeat the answer.
  Ended wait();
  /// SIGKILL and `wait`.
  Ended kill();

 private:
  ChildProcess(pid_t pid, Channel channel) : pid_(pid), channel_(std::move(channel)) {}
  static ChildProcess fork_child(const std::function<int(Channel&)>& body, bool through_exit);
  void dispose() noexcept;
  pid_t pid_{-1};
  Channel channel_{};
  std::optional<Ended> ended_{};
};

/// A child that does nothing until the test is over with it.
[[nodiscard]] ChildProcess idle_process();

/// A way to fork: with the handlers of pthread_atfork(3) or without.
struct ForkWay {
  const char* name;
  pid_t (*fork)();
};
/// fork(3), `_Fork` and the bare system call.
extern const std::array<ForkWay, 3> k_fork_ways;
/// A child that is made in this way runs `body`; its exit code, -1 if a signal ended it.
[[nodiscard]] int exit_code_in(const ForkWay& way, const std::function<int()>& body);

/// What a command wrote and how it ended.
struct CommandResult {
  Ended ended{};
  std::string out{};
  std::string error{};
};
/// Runs a program to its end with `input` as its standard input.
CommandResult run_command(const std::vector<std::string>& command, std::string_view input = {},
                          const ExecOptions& options = {});

/// Which new namespaces a function is to run in.
struct Namespaces {
  /// `CLONE_NEWPID`, `CLONE_NEWNS`, `CLONE_NEWTIME`, … A new user namespace is added where it takes one.
  int flags{};
  /// With new PID and mount namespaces: mount a `/proc` that shows the new PID namespace.
  bool mount_proc{true};
  /// With a new time namespace: its boot-time clock is ahead by this.
  std::chrono::seconds boottime_offset{0};
};
/// How that went. `why_not` tells why the machine does not allow it, and is empty where the function ran.
struct NamespaceRun {
  std::string why_not{};
  Ended ended{};
  /// What the function told its channel.
  std::string output{};
};
/// Runs `body` in a child inside new namespaces (as pid 1 of a new PID namespace) to its end. Mounts made there vanish
/// with it. What it hears from the channel is `input`, line by line.
NamespaceRun run_in_namespaces(const Namespaces& namespaces, const std::function<int(Channel&)>& body,
                               std::string_view input = {});

/// The user that tests drop to.
inline constexpr uid_t k_second_uid = 65534;
/// Whether this process may become another user.
[[nodiscard]] bool can_become_second_user();
/// Becomes a user of one group for good, with all identities, able to read its own `/proc` files; for children only.
/// Throws if refused.
void become_user(uid_t user, gid_t group);
/// Becomes `k_second_uid` for good, with all identities and no groups; for children only. Throws if refused.
void become_second_user();

/// A new directory under `$TMPDIR`, or `/tmp`; removed with all its contents by the destructor, in the process that
/// made it. Its mode is 0700.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::filesystem::path operator/(const std::filesystem::path& name) const { return path_ / name; }

 private:
  std::filesystem::path path_{};
  pid_t owner_{};
};

/// A tmpfs of its own, unmounted by the destructor. It lives in a mount namespace that the process enters with its
/// first one, so a killed test leaves nothing mounted; threads started before that do not see it.
class TmpfsMount {
 public:
  /// `options` as in mount(8): `size=64k,nr_inodes=16`. None where mounting is not allowed, with the reason in
  /// `why_not`.
  static std::optional<TmpfsMount> mount(const std::string& options, std::string* why_not = nullptr);
  TmpfsMount(TmpfsMount&& other) noexcept;
  TmpfsMount& operator=(TmpfsMount&& other) = delete;
  ~TmpfsMount();
  [[nodiscard]] const std::filesystem::path& path() const { return directory_->path(); }
  [[nodiscard]] std::filesystem::path operator/(const std::filesystem::path& name) const { return path() / name; }
  /// Mounts it again with other options, such as `ro`.
  [[nodiscard]] bool remount(const std::string& options) const;

 private:
  explicit TmpfsMount(std::unique_ptr<TemporaryDirectory> directory);
  std::unique_ptr<TemporaryDirectory> directory_{};
  pid_t owner_{};
};

/// Text of a whole file; empty if it cannot be read.
[[nodiscard]] std::string read_text(const std::filesystem::path& path);
/// Writes a whole file, or throws.
void write_text(const std::filesystem::path& path, std::string_view text);

}  // namespace sessionlock::test
