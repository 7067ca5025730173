// The peer that is ourselves.

#include <sessionlock/sessionlock.hpp>

#include "peer.hpp"

namespace {

class Session {
 public:
  explicit Session(const char* path) : path_(path) {}
  void acquire() { lock_ = sessionlock::value_or_throw(manager_.acquire(path_, {.timeout = std::chrono::minutes{5}})); }
  void release() { sessionlock::value_or_throw(lock_.release()); }

 private:
  std::filesystem::path path_;
  sessionlock::LockManager manager_;
  sessionlock::SessionLock lock_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    return EXIT_FAILURE;
  }
  Session lock(argv[2]);
  return peer::serve(lock);
}
