// liblockfile, which mail programs use: `<path>.lock` with the pid, checked for life (L_PID). Its own waiting sleeps
// for 5 s and longer, so that a program that is in a hurry would ask again and again itself; this one lets it wait.

#include <lockfile.h>

#include "peer.hpp"

namespace {

class Liblockfile {
 public:
  explicit Liblockfile(const char* path) : name_(std::string(path) + ".lock") {}
  void acquire() const {
    constexpr int k_retries = 1000;
    if (::lockfile_create(name_.c_str(), k_retries, L_PID) != L_SUCCESS) {
      peer::fail("lockfile_create");
    }
  }
  void release() const { ::lockfile_remove(name_.c_str()); }

 private:
  std::string name_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    return EXIT_FAILURE;
  }
  const Liblockfile lock(argv[2]);
  return peer::serve(lock);
}
