#include "cli/program.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <exception>
#include <optional>
#include <sstream>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sessionlock/lock_record.hpp>

#include "cli/arguments.hpp"
#include "cli/exit_status.hpp"
#include "text/printable_text.hpp"

namespace sessionlock::cli {
namespace {

/// Whether the kernel has given a signal to the program already, because both are in the group it was meant for. The
/// exception is the leader of a session: when the terminal hangs up only the leader gets SIGHUP (POSIX, 11.1.10 Modem
/// Disconnect).
bool program_has_it(const Caught& caught, pid_t program) {
  const bool alone = caught.number == SIGHUP && ::getsid(0) == ::getpid();
  return caught.from_kernel && !alone && ::getpgid(program) == ::getpgrp();
}

void forward(const Caught& caught, pid_t program) {
  if (caught.number == SIGCHLD || program_has_it(caught, program)) {
    return;
  }
  // The program has not been reaped, so its pid is still its own.
  if (::kill(program, caught.number) != 0) {
    const std::error_code code{errno, std::system_category()};
    print_error(fmt::format("cannot forward signal {} ({}) to pid {}: {}", caught.number, ::strsignal(caught.number),
                            program, code.message()));
  }
}

/// As a shell reports it.
int exit_status_of(int wait_status) {
  return WIFSIGNALED(wait_status) ? k_signal_base + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

/// Reaps every child that has ended, not only the program: pid 1 of a PID namespace gets the orphans of all others,
/// which would otherwise stay zombies for as long as the program runs. Returns the program's wait status once it has
/// ended.
std::optional<int> reap_children(pid_t program) {
  std::optional<int> result;
  while (true) {
    int status = 0;
    const pid_t reaped = ::waitpid(-1, &status, WNOHANG);
    if (reaped == program) {
      result = status;
    } else if (reaped == 0 || (reaped < 0 && errno == ECHILD && result)) {
      return result;
    } else if (reaped < 0 && errno != EINTR) {
      throw std::system_error(errno, std::system_category(), "waitpid");
    }
  }
}

int wait_for(pid_t program, SignalCatcher& signals) {
  while (true) {
    for (const Caught& caught : signals.take()) {
      forward(caught, program);
    }
    if (const std::optional<int> status = reap_children(program)) {
      return exit_status_of(*status);
    }
    wait_readable(std::array{signals.wake_fd()});
  }
}

/// Waits for the program to end when nothing else can be done any more.
int wait_plainly(pid_t program) {
  int status = 0;
  while (::waitpid(program, &status, 0) != program) {
    if (errno != EINTR) {
      return k_failed;
    }
  }
  return exit_status_of(status);
}

/// Where a program may lie, in the order in which to try: as execvp(3), which would hand a file that is no program to a
/// shell instead of saying so.
std::vector<std::string> candidates(const std::string& program) {
  if (program.find('/') != std::string::npos) {
    return {program};
  }
  const char* const told = std::getenv("PATH");
  const std::string path = told == nullptr ? "/bin:/usr/bin" : told;
  std::vector<std::string> result;
  for (std::size_t at = 0; at <= path.size() && !program.empty();) {
    const std::size_t end = std::min(path.find(':', at), path.size());
    result.push_back((end == at ? "." : path.substr(at, end - at)) + "/" + program);
    at = end + 1;
  }
  return result;
}

/// Only returns if none can be executed, with the reason: the first that is not "there is none".
int execute(const std::vector<std::string>& files, char* const arguments[]) noexcept {
  int reason = ENOENT;
  for (const std::string& file : files) {
    ::execve(file.c_str(), arguments, environ);
    const int number = errno;
    if (number != ENOENT && number != ENOTDIR && reason == ENOENT) {
      reason = number;
    }
  }
  return reason;
}

// In the child nothing but system calls: memory and locks are those of the moment of the fork.

/// What this process catches would, in the child, be caught on its behalf.
void forget_handlers() noexcept {
  for (int number = 1; number < NSIG; ++number) {
    struct sigaction action {};
    if (::sigaction(number, nullptr, &action) == 0 && action.sa_handler != SIG_IGN && action.sa_handler != SIG_DFL) {
      action.sa_handler = SIG_DFL;
      action.sa_flags = 0;
      ::sigaction(number, &action, nullptr);
    }
  }
}

/// A message of one byte, with room for one descriptor.
struct DescriptorMessage {
  char word{'!'};
  struct ::iovec bytes {
    &word, 1
  };
  alignas(::cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  ::msghdr header{};

  DescriptorMessage() noexcept {
    header.msg_iov = &bytes;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
  }
};

/// Sends a descriptor along with the word to start (unix(7), SCM_RIGHTS); the word alone where it cannot be sent.
void send_start(int line, int shared) noexcept {
  DescriptorMessage message;
  ::cmsghdr* const rights = CMSG_FIRSTHDR(&message.header);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof shared);
  std::memcpy(CMSG_DATA(rights), &shared, sizeof shared);
  // MSG_NOSIGNAL: that the child may be gone must not end this process. Its exit status will show it.
  if (shared < 0 || ::sendmsg(line, &message.header, MSG_NOSIGNAL) != 1) {
    static_cast<void>(!::send(line, &message.word, 1, MSG_NOSIGNAL));
  }
}

/// Waits for the parent's word, and keeps the descriptor that comes with it, out of the way of standard input, output
/// and error. Returns false if the parent ended instead.
bool wait_for_start(int line) noexcept {
  DescriptorMessage message;
  ssize_t received = -1;
  do {
    received = ::recvmsg(line, &message.header, 0);
  } while (received < 0 && errno == EINTR);
  if (const ::cmsghdr* const rights = CMSG_FIRSTHDR(&message.header); received == 1 && rights != nullptr) {
    int shared = -1;
    std::memcpy(&shared, CMSG_DATA(rights), sizeof shared);
    if (shared <= STDERR_FILENO) {
      static_cast<void>(::fcntl(shared, F_DUPFD, STDERR_FILENO + 1));
      ::close(shared);
    }
  }
  return received == 1;
}

/// Which limit may be meant by an error that names none.
std::string_view limit_words(const std::error_code& code) {
  if (code == std::errc::resource_unavailable_try_again) {
    return "a limit on processes and threads may be reached: 'ulimit -u', or pids.max of the control group";
  }
  if (code == std::errc::not_enough_memory) {
    return "memory is short, or a limit on it is reached: 'ulimit -v', or memory.max of the control group";
  }
  if (code == std::errc::too_many_files_open) {
    return "the limit on open files is reached: 'ulimit -n'";
  }
  if (code == std::errc::too_many_files_open_in_system) {
    return "the system's limit on open files is reached: fs.file-max";
  }
  if (code == std::errc::argument_list_too_long) {
    return "the arguments and the environment are too long together: 'ulimit -s' limits them";
  }
  return {};
}

}  // namespace

std::vector<char*> pointers_to(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  pointers.reserve(strings.size() + 1);
  for (std::string& string : strings) {
    pointers.push_back(string.data());
  }
  pointers.push_back(nullptr);
  return pointers;
}

std::optional<std::string> reclaimed_from_value(const SessionLock& lock) {
  const auto& former = lock.reclaimed_from();
  if (!former) {
    return std::nullopt;
  }
  // The lines of a lock file are its members, because a text in JSON has no newline of its own.
  std::string value;
  std::istringstream lines(format_lock_record(former->record));
  for (std::string line; std::getline(lines, line);) {
    value += value.ends_with(',') ? " " : "";
    value += line.substr(std::min(line.find_first_not_of(' '), line.size()));
  }
  return value;
}

std::vector<std::string> environment_with(const std::vector<Variable>& variables) {
  std::vector<std::string> result;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view old{*entry};
    const std::string_view name = old.substr(0, old.find('='));
    if (std::none_of(variables.begin(), variables.end(), [&](const Variable& one) { return one.first == name; })) {
      result.emplace_back(old);
    }
  }
  for (const auto& [name, value] : variables) {
    if (value) {
      result.push_back(std::string(name) + "=" + *value);
    }
  }
  return result;
}

int program_failure(const std::error_code& code, const std::string& program) {
  const std::string_view limit = limit_words(code);
  print_error(fmt::format("cannot run '{}': {}{}", printable_text(program), code.message(),
                          limit.empty() ? "" : fmt::format(" ({})", limit)));
  const bool missing = code == std::errc::no_such_file_or_directory || code == std::errc::not_a_directory;
  return missing ? k_not_found : k_cannot_execute;
}

int reporting_start_failure(const std::vector<std::string>& program, const std::function<int()>& action) {
  try {
    return action();
  } catch (const std::system_error& error) {
    return program_failure(error.code(), program.front());
  }
}

int wait_forwarding_signals(pid_t program, SignalCatcher& signals) {
  // The process that started this one may have blocked it. The program inherits that; here it would mean to wait for
  // ever.
  sigset_t only;
  ::sigemptyset(&only);
  ::sigaddset(&only, SIGCHLD);
  ::pthread_sigmask(SIG_UNBLOCK, &only, nullptr);
  try {
    return wait_for(program, signals);
  } catch (const std::exception& error) {
    print_error(fmt::format("signals are not forwarded any more: {}", error.what()));
    return wait_plainly(program);
  }
}

int take_ending_signal(SignalCatcher& signals) {
  const std::vector<Caught> caught = signals.take();
  const auto ending =
      std::find_if(caught.begin(), caught.end(), [](const Caught& one) { return one.number != SIGCHLD; });
  return ending == caught.end() ? 0 : ending->number;
}

SuspendedChild::SuspendedChild(std::vector<std::string> command) {
  const std::vector<std::string> files = candidates(command.front());
  const std::vector<char*> arguments = pointers_to(command);
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    throw std::system_error(errno, std::system_category(), "socketpair");
  }
  line_ = OwnedFd{ends[0]};
  OwnedFd child_line{ends[1]};
  // No handler of ours must run in the child, where its pipe is still ours.
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  pid_ = ::fork();
  const int number = errno;
  if (pid_ == 0) {
    ::close(line_.get());  // otherwise the child would wait for itself
    forget_handlers();
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (wait_for_start(child_line.get())) {
      const int reason = execute(files, arguments.data());
      static_cast<void>(!::write(child_line.get(), &reason, sizeof reason));
    }
    ::_exit(k_not_found);
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid_ < 0) {
    throw std::system_error(number, std::system_category(), "fork");
  }
}

SuspendedChild::~SuspendedChild() {
  end();
}

std::error_code SuspendedChild::start(int shared) {
  send_start(line_.get(), shared);
  int reason = 0;
  ssize_t received = -1;
  do {
    received = ::recv(line_.get(), &reason, sizeof reason, MSG_WAITALL);  // its end: executed, or gone
  } while (received < 0 && errno == EINTR);
  if (received == ssize_t{sizeof reason}) {
    end();
    return {reason, std::system_category()};
  }
  is_held_ = false;
  return {};
}

void SuspendedChild::end() noexcept {
  if (!is_held_ || pid_ < 0) {
    return;
  }
  is_held_ = false;
  ::kill(pid_, SIGKILL);  // not reaped yet, so the pid is still its own
  wait_plainly(pid_);
}

}  // namespace sessionlock::cli
