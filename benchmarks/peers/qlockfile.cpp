// Qt's QLockFile, with its defaults; a lock is stale to it once its process is gone, or after 30 s.

#include <QLockFile>
#include <QString>

#include "peer.hpp"

namespace {

class QtLock {
 public:
  explicit QtLock(const char* path) : lock_(QString::fromLocal8Bit(path) + ".lock") {}
  void acquire() {
    if (!lock_.lock()) {
      peer::fail("QLockFile::lock");
    }
  }
  void release() { lock_.unlock(); }

 private:
  QLockFile lock_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    return EXIT_FAILURE;
  }
  QtLock lock(argv[2]);
  return peer::serve(lock);
}
