// `sessionlock run`: a program runs while this process holds the lock.
//
// Signals. Whoever signals the wrapper means the program, so what asks a process to end is forwarded. Two things are
// left alone. What a key at the terminal sends (Ctrl-C, Ctrl-\) the kernel gives to the whole foreground process group,
// of which the program is a member as well: forwarding would deliver it twice. And job control (Ctrl-Z, `fg`, a resized
// window) works on the group by itself: both stop, both go on.
//
// A signal that comes before there is a program ends the wait for the lock, and then this process, by that signal. Its
// handler stands before the acquire begins and stays until the end, so there is no gap in which a signal would kill the
// wrapper and leave a lock or a program behind.
//
// INVARIANT: while the program lives this process does not give the lock up. That is why the library's clean-up on
// signals is not asked for: it would do just that.

#include <sessionlock/lock_manager.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include "arguments.hpp"
#include "command.hpp"
#include "exit_status.hpp"
#include "narration.hpp"
#include "signals.hpp"

extern char** environ;

namespace sessionlock::cli {
namespace {

struct RunArguments {
  SessionArguments session{};
  AcquireArguments acquire{};
};

/// The lock that an enclosing `run` holds for the same session, if there is one: waiting for it would be waiting for
/// ourselves. The id alone tells, for it names one acquisition of one session.
std::optional<Inspection> lock_of_enclosing_run(const LockManager& manager, const RunArguments& arguments) {
  const std::string id = environment("SESSIONLOCK_ID");
  if (id.empty()) {
    return std::nullopt;
  }
  Result<Inspection> inspection = manager.inspect(arguments.session.session, arguments.acquire.options.stale);
  if (!inspection || inspection->state != LockState::held || inspection->record.lock_id != id) {
    return std::nullopt;
  }
  return std::move(*inspection);
}

/// This process's environment, with what COMMAND is told about the lock.
std::vector<std::string> environment_with(const SessionLock& lock, bool with_directory) {
  std::vector<std::pair<std::string, std::string>> told{
      {"SESSIONLOCK_SESSION=", lock.session_path().native()},
      {"SESSIONLOCK_LOCK=", lock.lock_path().native()},
      {"SESSIONLOCK_ID=", lock.record().lock_id.value_or("")},
  };
  if (with_directory) {
    // Not as it was given: COMMAND may go to another directory.
    told.emplace_back("SESSIONLOCK_DIRECTORY=", lock.lock_path().parent_path().native());
  }
  std::vector<std::string> result;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view old{*entry};
    const bool replaced = std::any_of(told.begin(), told.end(),
                                      [&](const auto& one) { return old.substr(0, one.first.size()) == one.first; });
    if (!replaced) {
      result.emplace_back(old);
    }
  }
  for (const auto& [name, value] : told) {
    result.push_back(name + value);
  }
  return result;
}

/// As the exec functions want it. Lifetime: that of the strings.
std::vector<char*> pointers_to(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& string : strings) {
    pointers.push_back(string.data());
  }
  pointers.push_back(nullptr);
  return pointers;
}

int spawn_failure(const Error& error, const std::string& program) {
  if (error.code.category() == error_category()) {
    return fail(error);
  }
  complain(fmt::format("cannot run '{}': {}", program, error.code.message()));
  const bool missing = error.code == std::errc::no_such_file_or_directory || error.code == std::errc::not_a_directory;
  return missing ? k_not_found : k_cannot_execute;
}

/// Whether the kernel has given a signal to the program already, because both are in the group it was meant for. The
/// exception is the leader of a session: when the terminal hangs up it is told alone (POSIX, 11.1.10 Modem Disconnect).
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
    complain(fmt::format("cannot forward signal {} ({}) to pid {}: {}", caught.number, ::strsignal(caught.number),
                         program, code.message()));
  }
}

/// As a shell would tell it.
int exit_status_of(int wait_status) {
  return WIFSIGNALED(wait_status) ? k_signal_base + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

/// Waits for the program to end, and passes signals on meanwhile. Returns its exit status.
int wait_for(pid_t program, SignalCatcher& signals) {
  while (true) {
    for (const Caught& caught : signals.take()) {
      forward(caught, program);
    }
    int status = 0;
    const pid_t reaped = ::waitpid(program, &status, WNOHANG);
    if (reaped == program) {
      return exit_status_of(status);
    }
    if (reaped < 0 && errno != EINTR) {
      throw std::system_error(errno, std::system_category(), "waitpid");
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

/// Runs the program to its end under the lock. Returns its exit status, or ours if it could not be run.
int run_program(const SessionLock& lock, std::vector<std::string>& program, bool with_directory,
                SignalCatcher& signals) {
  std::vector<std::string> variables = environment_with(lock, with_directory);
  signals.add(SIGCHLD);
  const Result<pid_t> started =
      lock.spawn_with(program.front().c_str(), pointers_to(program).data(), pointers_to(variables).data());
  if (!started) {
    return spawn_failure(started.error(), program.front());
  }
  // Whoever started us may have blocked it. The program was to inherit that; here it would mean to wait for ever.
  sigset_t only;
  ::sigemptyset(&only);
  ::sigaddset(&only, SIGCHLD);
  ::pthread_sigmask(SIG_UNBLOCK, &only, nullptr);
  try {
    return wait_for(*started, signals);
  } catch (const std::exception& error) {
    complain(fmt::format("signals are not forwarded any more: {}", error.what()));
    return wait_plainly(*started);
  }
}

Result<SessionLock> acquire(LockManager& manager, const RunArguments& arguments, const SignalCatcher& signals) {
  const Interruption interruption{signals};
  AcquireOptions options = arguments.acquire.acquire_options(arguments.session);
  options.stop = interruption.token();
  return manager.acquire(arguments.session.session, options);
}

int run(const RunArguments& arguments, std::vector<std::string> program) {
  ManagerOptions manager_options = arguments.session.manager_options();
  if (arguments.acquire.verbose) {
    manager_options.observer = narrator();
  }
  LockManager manager{manager_options};
  if (const std::optional<Inspection> ours = lock_of_enclosing_run(manager, arguments)) {
    return fail({Errc::locked, "run", ours->lock_path, ours, "by the 'sessionlock run' around this one"});
  }

  SignalCatcher signals{k_ending_signals};
  Result<SessionLock> lock = acquire(manager, arguments, signals);
  if (const std::vector<Caught> early = signals.take(); !early.empty()) {
    if (lock) {
      static_cast<void>(lock->release());
    }
    die_of(early.front().number);
  }
  if (!lock) {
    return fail(lock.error());
  }
  int status = run_program(*lock, program, !manager_options.lock_directory.empty(), signals);
  if (const Result<void> released = lock->release(); !released) {
    complain(released.error().message());
    status = status == k_done ? k_failed : status;
  }
  return status;
}

}  // namespace

void declare_run(CLI::App& app, Invocation& invocation) {
  CLI::App& command = *app.add_subcommand("run", "Run a program while holding a session's lock");
  const auto arguments = std::make_shared<RunArguments>();
  add_session(command, arguments->session);
  add_acquire_options(command, arguments->acquire);
  add_duration(command, "--stale-after", arguments->acquire.options.stale.stale_after,
               "Age from which a lock counts as old (30m unless given)");
  add_duration(command, "--max-hold", arguments->acquire.options.max_hold,
               "How long the lock is meant to be held, for others to know (5m unless given)");
  add_session_options(command, arguments->session);
  command.footer(
      "COMMAND sees SESSIONLOCK_SESSION, SESSIONLOCK_LOCK and SESSIONLOCK_ID. The exit status is COMMAND's own;\n"
      "128+N if signal N ended it, 126 or 127 if it cannot be run, 75 if the session stays locked.");
  command.callback([arguments, &invocation] {
    if (invocation.program.empty()) {
      throw CLI::RequiredError("-- COMMAND");
    }
    invocation.action = [arguments, &invocation] { return run(*arguments, invocation.program); };
  });
}

}  // namespace sessionlock::cli
