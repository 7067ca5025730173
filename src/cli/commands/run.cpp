// `sessionlock run`: a program runs while this process holds the lock.
//
// While it runs, signals are passed on to it: program.hpp.
//
// A signal that comes before there is a program ends the wait for the lock, and then this process, by that signal. Its
// handler stands before the acquire begins and stays until the end, so there is no gap in which a signal would kill the
// wrapper and leave a lock or a program behind.
//
// INVARIANT: while the program lives this process does not give the lock up. That is why the library's clean-up on
// signals is not asked for: it would do just that.

#include <sessionlock/lock_manager.hpp>
#include <sessionlock/transcript.hpp>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/core.h>
#include <unistd.h>

#include "cli/arguments.hpp"
#include "cli/command.hpp"
#include "cli/exit_status.hpp"
#include "cli/made_directories.hpp"
#include "cli/program.hpp"
#include "cli/repair_report.hpp"
#include "cli/signals.hpp"
#include "cli/verbose.hpp"

namespace sessionlock::cli {
namespace {

struct RunArguments {
  SessionArguments session{};
  AcquireArguments acquire{};
};

/// The lock that an enclosing `run` holds for the same session, if there is one: waiting for it would be waiting for
/// ourselves. The id alone decides, because it names one acquisition of one session.
std::optional<Inspection> lock_of_enclosing_run(const LockManager& manager, const RunArguments& arguments) {
  const std::string id = environment("SESSIONLOCK_ID");
  if (id.empty()) {
    return std::nullopt;
  }
  Result<Inspection> inspection =
      manager.inspect(arguments.session.session, arguments.acquire.acquire_options(arguments.session));
  if (!inspection || inspection->state != LockState::held || inspection->record.lock_id != id) {
    return std::nullopt;
  }
  return std::move(*inspection);
}

/// The environment that describes the lock to COMMAND.
std::vector<std::string> environment_of(const SessionLock& lock, bool with_directory) {
  std::vector<Variable> variables{
      {"SESSIONLOCK_SESSION", lock.session_path().native()},
      {"SESSIONLOCK_LOCK", lock.lock_path().native()},
      {"SESSIONLOCK_ID", lock.record().lock_id.value_or("")},
      {k_reclaimed_from, reclaimed_from_value(lock)},
  };
  if (with_directory) {
    // Not as it was given: COMMAND may go to another directory.
    variables.emplace_back("SESSIONLOCK_DIRECTORY", lock.lock_path().parent_path().native());
  }
  return environment_with(variables);
}

/// Runs the program to its end under the lock. Returns its exit status, or ours if it could not be run.
int run_program(const SessionLock& lock, std::vector<std::string>& program, bool with_directory,
                SignalCatcher& signals) {
  std::vector<std::string> variables = environment_of(lock, with_directory);
  signals.add(SIGCHLD);
  const Result<pid_t> started =
      lock.spawn_with(program.front().c_str(), pointers_to(program).data(), pointers_to(variables).data());
  if (!started) {
    const Error& error = started.error();
    return error.code.category() == error_category() ? fail(error) : program_failure(error.code, program.front());
  }
  return wait_forwarding_signals(*started, signals);
}

Result<SessionLock> acquire(LockManager& manager, const RunArguments& arguments, const SignalCatcher& signals) {
  const Interruption interruption{signals};
  AcquireOptions options = arguments.acquire.acquire_options(arguments.session);
  options.stop = interruption.token();
  std::optional<MissingDirectories> missing;
  if (arguments.acquire.verbose) {
    missing.emplace(arguments.session);
  }
  Result<SessionLock> lock = manager.acquire(arguments.session.session, options);
  if (missing) {
    missing->print_made();
  }
  return lock;
}

/// COMMAND, and the appends in it, repair nothing, since none of them can know whether another one is in the middle of
/// a line. Now nobody is. What fails here may not matter to COMMAND, which need not append.
void repair(SessionLock& lock) {
  if (const Result<AppendReport> report = Transcript::repair(lock)) {
    print_repair(*report, lock.session_path());
  } else {
    print_error(fmt::format("the end of the session is not repaired: {}", report.error().message()));
  }
}

int run(const RunArguments& arguments, std::vector<std::string> program) {
  ManagerOptions manager_options = arguments.session.manager_options();
  if (arguments.acquire.verbose) {
    manager_options.observer = verbose_observer();
  }
  LockManager manager{manager_options};
  if (const std::optional<Inspection> ours = lock_of_enclosing_run(manager, arguments)) {
    return fail({Errc::locked, "run", ours->lock_path, ours, "by the 'sessionlock run' around this one"});
  }

  SignalCatcher signals{k_ending_signals};
  Result<SessionLock> lock = acquire(manager, arguments, signals);
  if (lock) {
    print_take_over(*lock);
  }
  if (const int early = take_ending_signal(signals); early != 0) {
    if (lock) {
      static_cast<void>(lock->release());
    }
    die_of(early);
  }
  if (!lock) {
    return fail(lock.error());
  }
  repair(*lock);
  int status = run_program(*lock, program, !manager_options.lock_directory.empty(), signals);
  if (const Result<void> released = lock->release(); !released) {
    print_error(released.error().message());
    status = status == k_done ? k_failed : status;
  }
  return status;
}

}  // namespace

Command declare_run() {
  Command command{"run", "Run a program while holding a session's lock"};
  const auto arguments = std::make_shared<RunArguments>();
  add_session(command, arguments->session);
  add_acquire_options(command, arguments->acquire);
  command.duration("--stale-after", arguments->acquire.options.stale.stale_after,
                   "Age from which a lock counts as old (30m unless given)");
  command.duration("--max-hold", arguments->acquire.options.max_hold,
                   "How long the lock is meant to be held, for others to know (5m unless given)");
  add_session_options(command, arguments->session);
  add_mode(command, arguments->session.mode, "Permissions of the lock, which others never get to write");
  command.footer =
      "COMMAND sees SESSIONLOCK_SESSION, SESSIONLOCK_LOCK and SESSIONLOCK_ID; and SESSIONLOCK_RECLAIMED_FROM, the "
      "dead\n"
      "owner's record, if the lock was taken over. The exit status is COMMAND's own; 128+N if signal N ended it, 126 "
      "or\n"
      "127 if it cannot be run, 75 if the session stays locked.";
  command.program_action = [arguments](const std::vector<std::string>& program) {
    return reporting_start_failure(program, [&] { return run(*arguments, program); });
  };
  return command;
}

}  // namespace sessionlock::cli
