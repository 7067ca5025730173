#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <csignal>

int main(int argc, char** argv) {
  // Who runs the tests in the background may ignore what a terminal sends, and every process started here would
  // inherit that.
  for (const int number : {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2}) {
    (void)std::signal(number, SIG_DFL);
  }
  return doctest::Context(argc, argv).run();
}
