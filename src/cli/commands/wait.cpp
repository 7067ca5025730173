// `sessionlock wait`: returns when a session is free, without taking it.

#include <sessionlock/lock_manager.hpp>

#include <memory>

#include "cli/arguments.hpp"
#include "cli/command.hpp"
#include "cli/exit_status.hpp"

namespace sessionlock::cli {
namespace {

struct WaitArguments {
  SessionArguments session{};
  AcquireArguments acquire{};
};

int wait(const WaitArguments& arguments) {
  LockManager manager{arguments.session.manager_options()};
  const Result<void> waited =
      manager.wait_until_free(arguments.session.session, arguments.acquire.acquire_options(arguments.session));
  return waited ? k_done : fail(waited.error());
}

}  // namespace

Command declare_wait() {
  Command command{"wait", "Return when a session is free, or its owner is gone, without taking it"};
  const auto arguments = std::make_shared<WaitArguments>();
  add_session(command, arguments->session);
  add_timeout(command, arguments->acquire);
  add_session_options(command, arguments->session);
  command.action = [arguments] { return wait(*arguments); };
  return command;
}

}  // namespace sessionlock::cli
