// `sessionlock status`: which process holds a session, and what an acquire would do.

#include <sessionlock/lock_manager.hpp>

#include <memory>
#include <string>
#include <vector>

#include "cli/arguments.hpp"
#include "cli/command.hpp"
#include "cli/exit_status.hpp"
#include "cli/inspection_text.hpp"
#include "cli/json_writer.hpp"
#include "cli/terminal.hpp"

namespace sessionlock::cli {
namespace {

struct StatusArguments {
  std::vector<std::string> sessions{};
  SessionArguments session{};
  bool json{false};
};

/// One session looked at.
struct Look {
  std::string session;
  Result<Inspection> result;
};

/// What an acquire would exit with: `run` and `wait` must not say something else.
int exit_status(const Look& look) {
  if (!look.result) {
    return cli::exit_status(look.result.error().code);
  }
  if (look.result->basis == Basis::not_a_lock) {
    return cli::exit_status(look.result->cause);
  }
  if (look.result->obstacle) {
    return cli::exit_status(look.result->obstacle);
  }
  return look.result->state == LockState::free || look.result->removable ? k_done : k_locked;
}

/// Of several sessions: that of the last that fails, but 75 if any is locked.
int exit_status(const std::vector<Look>& looks) {
  int status = k_done;
  for (const Look& look : looks) {
    const int one = exit_status(look);
    status = one == k_done || status == k_locked ? status : one;
  }
  return status;
}

void print_json(const std::vector<Look>& looks) {
  JsonWriter json;
  json.begin_array();
  for (const Look& look : looks) {
    if (look.result) {
      write_json(json, *look.result);
    } else {
      write_json(json, look.session, look.result.error());
    }
  }
  json.end_array();
  print(json.finish());
}

int status(const StatusArguments& arguments) {
  const LockManager manager{arguments.session.manager_options()};
  AcquireOptions options = AcquireOptions::from_environment();
  options.allow_hard_links = arguments.session.allow_hard_links;
  std::vector<Look> looks;
  for (const std::string& session : arguments.sessions) {
    looks.push_back({session, manager.inspect(session, options)});
  }
  if (arguments.json) {
    print_json(looks);
  } else {
    const Palette palette = Palette::for_output();
    for (const Look& look : looks) {
      if (look.result) {
        print(describe(*look.result, palette));
      }
    }
  }
  for (const Look& look : looks) {
    if (!look.result) {
      print_error(look.result.error().message());
    }
  }
  return exit_status(looks);
}

}  // namespace

Command declare_status() {
  Command command{"status", "Tell who holds sessions, since when, and what an acquire would do"};
  const auto arguments = std::make_shared<StatusArguments>();
  const auto read = [&sessions = arguments->sessions](const std::string& session) {
    sessions.push_back(session);
    return check_session_name(session);
  };
  command.positional("SESSION", read, "Session files; their locks are found for them").repeated = true;
  command.flag("--json", arguments->json, "Print a JSON array, an object for each session");
  add_session_options(command, arguments->session);
  command.footer =
      "The exit status is 0 if an acquire would succeed now, and 75 if it would have to wait for any of them.";
  command.action = [arguments] { return status(*arguments); };
  return command;
}

}  // namespace sessionlock::cli
