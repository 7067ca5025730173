// `sessionlock pidfile`: claims, inspects and removes PID files, and signals the process that a PID file names, never
// another one.

#include <sessionlock/pid_file.hpp>
#include <sessionlock/process_signal.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/core.h>
#include <unistd.h>

#include "cli/arguments.hpp"
#include "cli/command.hpp"
#include "cli/exit_status.hpp"
#include "cli/json_writer.hpp"
#include "cli/program.hpp"
#include "cli/signals.hpp"
#include "cli/terminal.hpp"
#include "text/printable_text.hpp"

namespace sessionlock::cli {
namespace {

// As init scripts have them (Linux Standard Base, "Init Script Actions").
constexpr int k_running = 0;
constexpr int k_dead_with_file = 1;
constexpr int k_not_running = 3;
constexpr int k_cannot_tell = 4;

/// How a JSON file says that `stop` is to leave it. The other forms have no place for that.
constexpr std::string_view k_kept = "\"keep\": true";

struct PidFileArguments {
  std::string file{};
  bool json{false};
  PidFileOptions claim{};
  bool ok_if_running{false};
  int signal{SIGTERM};
  bool unverified{false};
  std::chrono::milliseconds grace{std::chrono::seconds{10}};
  bool keep{false};
  bool if_dead{false};
};

int report_running(const PidFileInspection& owner, bool ok_if_running) {
  const auto pid = owner.record.pid ? owner.record.pid : owner.record.digits_pid;
  const bool is_running = owner.state == PidFileState::alive;
  print_error(is_running && pid && owner.reason != PidFileReason::witness_inherited
                  ? fmt::format("already running (pid {})", *pid)
                  : "not started: " + owner.explanation());
  return is_running && ok_if_running ? k_done : k_locked;
}

/// Removes the file after COMMAND has ended. If it is not what was claimed any more it may still be COMMAND's, which
/// may have written it anew to say more; but a bare pid may be that of another process, in another container. What is
/// not COMMAND's stays, and is reported: it is that of a daemon which COMMAND has started, or a successor's.
int clean_up(PidFile& file, const ProcessIdentity& owner, int status) {
  Result<void> done = file.release();
  if (!done && done.error().code == Errc::lost) {
    const auto removed =
        remove_pid_file(file.path(), RemoveWhose::own, {.without_token = UnverifiedOwner::stale}, owner);
    done = removed ? Result<void>{} : tl::unexpected(removed.error());
    if (!done && done.error().code == Errc::locked) {
      const Result<PidFileInspection> found = inspect_pid_file(file.path());
      print_error(fmt::format("{} stays: nothing in it proves that it is still the command's. {}",
                              printable_text(file.path().native()), found ? found->explanation() : ""));
      return status;
    }
  }
  if (done) {
    return status;
  }
  print_error(done.error().message());
  return status == k_done ? k_failed : status;
}

/// A signal that arrives before COMMAND is started ends it, the claim and this process; a later one is COMMAND's.
int claim(const PidFileArguments& arguments, const std::vector<std::string>& program) {
  SignalCatcher signals{k_ending_signals};
  signals.add(SIGCHLD);
  SuspendedChild held{program};
  const Result<ProcessIdentity> owner = identify(held.pid());
  if (!owner) {
    return fail(owner.error());
  }
  PidFileOptions options = arguments.claim;
  options.owner = *owner;
  if (options.keep && options.format == PidFileFormat::json) {
    options.extra_fields = k_kept;
  }
  Result<PidClaim> claimed = PidFile::claim(arguments.file, options);
  if (const int early = take_ending_signal(signals); early != 0) {
    held.end();
    if (claimed && claimed->file) {
      static_cast<void>(claimed->file->release());
    }
    die_of(early);
  }
  if (!claimed) {
    return fail(claimed.error());
  }
  if (claimed->running) {
    return report_running(*claimed->running, arguments.ok_if_running);
  }
  PidFile& file = *claimed->file;
  if (const std::error_code reason = held.start(file.witness_descriptor())) {
    return clean_up(file, *owner, program_failure(reason, program.front()));
  }
  const int status = wait_forwarding_signals(held.pid(), signals);
  return options.keep ? status : clean_up(file, *owner, status);
}

int exit_status_of(PidFileState state) {
  switch (state) {
    case PidFileState::alive:
      return k_running;
    case PidFileState::stale:
      return k_dead_with_file;
    case PidFileState::missing:
      return k_not_running;
    case PidFileState::invalid:
    case PidFileState::unknown:
      break;
  }
  return k_cannot_tell;
}

int status(const PidFileArguments& arguments) {
  const Result<PidFileInspection> found = inspect_pid_file(arguments.file);
  if (!found) {
    fail(found.error());
    return k_cannot_tell;
  }
  if (!arguments.json) {
    print(found->explanation() + "\n");
    return exit_status_of(found->state);
  }
  JsonWriter json;
  json.begin_object();
  json.member("path", std::optional(arguments.file));
  json.member("state", std::optional(std::string(to_string(found->state))));
  json.member("pid", found->record.pid ? std::optional<std::int64_t>(*found->record.pid) : std::nullopt);
  json.member("startToken", found->record.start_token);
  json.member("recycled", found->reason == PidFileReason::recycled);
  json.member("unverified", found->reason == PidFileReason::unverified);
  json.member("explanation", std::optional(found->explanation()));
  json.end_object();
  print(json.finish());
  return exit_status_of(found->state);
}

/// What a signal, or a stop, came to.
int conclude(const Result<SignalReport>& report) {
  if (!report) {
    return fail(report.error());
  }
  switch (report->outcome) {
    case SignalOutcome::signalled:
      if (!report->pinned) {
        print_error(
            "signalled, but the process could not be pinned, since pidfds are missing here: if it ended in the last "
            "moment, another process may have got its pid, and the signal");
      }
      return k_running;
    case SignalOutcome::gone:
      print_error("no such process: it has ended");
      return k_not_running;
    case SignalOutcome::recycled:
      print_error("refused: the pid belongs to another process now");
      return k_dead_with_file;
    case SignalOutcome::unverifiable:
      print_error("refused: nothing verifies that this is the process that was meant (see --unverified)");
      return k_cannot_tell;
    case SignalOutcome::refused:
      print_error("refused: this process is never signalled (pid 1, this command, the leader of its process group)");
      return k_cannot_tell;
  }
  return k_cannot_tell;
}

/// Looks at the file, and acts on the process that it names, if that may be.
template <class F>
int act(const PidFileArguments& arguments, F&& action) {
  const Result<PidFileInspection> found = inspect_pid_file(arguments.file);
  if (!found) {
    return fail(found.error());
  }
  const auto process = recorded_process(found->record);
  if (!process) {
    print_error(found->explanation());
    const bool gone = found->state == PidFileState::missing || found->state == PidFileState::stale;
    return gone ? k_not_running : k_cannot_tell;
  }
  return action(*found, *process, arguments.unverified ? Verification::unverified : Verification::required);
}

int signal(const PidFileArguments& arguments) {
  return act(arguments, [&](const PidFileInspection&, const ProcessIdentity& process, Verification verification) {
    return conclude(signal_process(process, arguments.signal, verification));
  });
}

int stop(const PidFileArguments& arguments) {
  return act(arguments, [&](const PidFileInspection& found, const ProcessIdentity& process, Verification verification) {
    const Result<SignalReport> report = stop_process(process, arguments.grace, verification);
    const int status = conclude(report);
    const bool is_over =
        report && report->outcome != SignalOutcome::unverifiable && report->outcome != SignalOutcome::refused;
    if (!is_over || arguments.keep || found.record.extra_fields.find(k_kept) != std::string::npos) {
      return status;
    }
    // A file that names a living process now is a successor's. Whoever shares the claim of one that has ended, such as
    // the `claim` that started it, has a few seconds to end as well.
    const auto removed = remove_pid_file(arguments.file, RemoveWhose::own_or_stale);
    if (!removed && removed.error().code != Errc::locked) {
      return fail(removed.error());
    }
    if (!removed) {
      print_error("the file stays: " + removed.error().detail);
    }
    return status;
  });
}

int remove(const PidFileArguments& arguments) {
  // "One's own file" is that of the process which called this command: a script that wrote its own pid, or that `claim`
  // started.
  const Result<ProcessIdentity> caller = identify(::getppid());
  if (!caller) {
    return fail(caller.error());
  }
  const auto removed =
      remove_pid_file(arguments.file, arguments.if_dead ? RemoveWhose::own_or_stale : RemoveWhose::own, {}, *caller);
  if (!removed && removed.error().code == Errc::locked) {
    const Result<PidFileInspection> found = inspect_pid_file(arguments.file);
    const bool is_dead = found && found->state == PidFileState::stale;
    print_error(fmt::format("not removed, since it is not the caller's: {}{}", removed.error().detail,
                            is_dead && !arguments.if_dead ? " --if-dead removes it." : ""));
    return k_locked;
  }
  return removed ? k_done : fail(removed.error());
}

// sigabbrev_np(3) knows them, but only in glibc.
struct SignalName {
  std::string_view name;
  int number;
};
constexpr std::array k_signal_names{
    SignalName{"HUP", SIGHUP},   SignalName{"INT", SIGINT},       SignalName{"QUIT", SIGQUIT},
    SignalName{"ILL", SIGILL},   SignalName{"TRAP", SIGTRAP},     SignalName{"ABRT", SIGABRT},
    SignalName{"BUS", SIGBUS},   SignalName{"FPE", SIGFPE},       SignalName{"KILL", SIGKILL},
    SignalName{"USR1", SIGUSR1}, SignalName{"SEGV", SIGSEGV},     SignalName{"USR2", SIGUSR2},
    SignalName{"PIPE", SIGPIPE}, SignalName{"ALRM", SIGALRM},     SignalName{"TERM", SIGTERM},
    SignalName{"CHLD", SIGCHLD}, SignalName{"CONT", SIGCONT},     SignalName{"STOP", SIGSTOP},
    SignalName{"TSTP", SIGTSTP}, SignalName{"TTIN", SIGTTIN},     SignalName{"TTOU", SIGTTOU},
    SignalName{"URG", SIGURG},   SignalName{"XCPU", SIGXCPU},     SignalName{"XFSZ", SIGXFSZ},
    SignalName{"PROF", SIGPROF}, SignalName{"VTALRM", SIGVTALRM}, SignalName{"WINCH", SIGWINCH},
    SignalName{"IO", SIGIO},     SignalName{"SYS", SIGSYS},
};

/// `TERM`, `SIGTERM` or `15`; none for what is no signal.
std::optional<int> signal_number(std::string_view text) {
  int number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc{} && end == text.data() + text.size()) {
    return number >= 1 && number <= SIGRTMAX ? std::optional(number) : std::nullopt;
  }
  text.remove_prefix(text.substr(0, 3) == "SIG" ? 3 : 0);
  const auto named = std::find_if(k_signal_names.begin(), k_signal_names.end(),
                                  [text](const SignalName& one) { return one.name == text; });
  return named == k_signal_names.end() ? std::nullopt : std::optional(named->number);
}

using Arguments = std::shared_ptr<PidFileArguments>;

Command declare(const Arguments& arguments, const std::string& name, const std::string& help,
                int (*action)(const PidFileArguments&)) {
  Command command{name, help};
  command.positional("FILE", arguments->file, "The PID file");
  if (action != nullptr) {
    command.action = [=] { return action(*arguments); };
  }
  return command;
}

Command declare_claim(const Arguments& arguments) {
  Command command = declare(arguments, "claim", "Run a program if a PID file can be claimed for it", nullptr);
  command.choice("--format", "FORM", arguments->claim.format,
                 {{"json", PidFileFormat::json},
                  {"colon", PidFileFormat::colon},
                  {"space", PidFileFormat::space},
                  {"plain", PidFileFormat::plain}},
                 "How it is written: json (unless given), colon, space or plain");
  command.flag("--keep", arguments->claim.keep, "Leave it there when the program has ended");
  const auto add_dependent = [arguments](const std::string& path) {
    arguments->claim.invalidate.emplace_back(path);
    return std::string{};
  };
  command
      .option("--invalidate", "PATH", add_dependent,
              "A file that describes a former owner, removed once the claim stands; may be repeated")
      .repeated = true;
  command.flag("--ok-if-running", arguments->ok_if_running, "Exit with 0 if somebody else has it and runs");
  command.footer =
      "COMMAND has to stay in the foreground: the claim ends with it.\n"
      "The exit status is COMMAND's own; 128+N if signal N ended it, 126 or 127 if it cannot be run, 75 if the file\n"
      "is another's.";
  command.program_action = [arguments](const std::vector<std::string>& program) {
    return reporting_start_failure(program, [&] { return claim(*arguments, program); });
  };
  return command;
}

Command declare_status_of(const Arguments& arguments) {
  Command command = declare(arguments, "status", "Tell whether its process runs", status);
  command.flag("--json", arguments->json, "Print a JSON document");
  command.footer = "The exit status is 0 if it is alive, 1 if stale, 3 if missing, 4 if invalid or unknown.";
  return command;
}

/// What `signal` and `stop` have in common.
Command declare_signalling(const Arguments& arguments, const std::string& name, const std::string& help,
                           int (*action)(const PidFileArguments&)) {
  Command command = declare(arguments, name, help, action);
  command.footer =
      "The exit status is 0 if it was signalled, 3 if it is gone or the file is missing, 1 if the pid is another\n"
      "process's now, and 4 if that cannot be told; nobody is signalled then.";
  return command;
}

void add_unverified(Command& command, const Arguments& arguments) {
  command.flag("--unverified", arguments->unverified,
               "Also a process of which the file tells only the pid, which may be another's by now");
}

Command declare_signal(const Arguments& arguments) {
  Command command = declare_signalling(arguments, "signal", "Signal exactly its process", signal);
  const auto read = [arguments](const std::string& text) {
    const std::optional<int> number = signal_number(text);
    arguments->signal = number.value_or(arguments->signal);
    return number ? std::string{} : fmt::format("'{}' is no signal", printable_text(text));
  };
  command.option("--signal", "NAME", read, "Which one (TERM unless given)");
  add_unverified(command, arguments);
  return command;
}

Command declare_stop(const Arguments& arguments) {
  Command command = declare_signalling(arguments, "stop", "End its process, and remove the file", stop);
  command.duration("--timeout", arguments->grace, "How long it has to end before it is killed (10s unless given)");
  command.flag("--keep", arguments->keep, "Leave the file where it is");
  add_unverified(command, arguments);
  return command;
}

Command declare_remove(const Arguments& arguments) {
  Command command = declare(arguments, "remove", "Remove the file if it is the calling process's own", remove);
  command.flag("--if-dead", arguments->if_dead, "Or if its process is gone");
  return command;
}

}  // namespace

Command declare_pidfile() {
  const auto arguments = std::make_shared<PidFileArguments>();
  Command group{"pidfile", "Claim PID files, ask after them, signal who they name"};
  group.commands = {declare_claim(arguments), declare_status_of(arguments), declare_signal(arguments),
                    declare_stop(arguments), declare_remove(arguments)};
  return group;
}

}  // namespace sessionlock::cli
