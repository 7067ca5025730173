// The kernel's own locks: `flock`, `ofd` (fcntl(2), open file description locks), and `boost`, whose file_lock is the
// process's record lock of fcntl(2). The file stays open, as a program would keep it. None of them writes a record.

#include <memory>
#include <string_view>

#include <fcntl.h>
#include <sys/file.h>
#include <boost/interprocess/sync/file_lock.hpp>

#include "peer.hpp"

namespace {

int open_file(const char* path) {
  const int fd = ::open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0) {
    peer::fail("open");
  }
  return fd;
}

class Flock {
 public:
  explicit Flock(const char* path) : fd_(open_file(path)) {}
  void acquire() const { call(LOCK_EX); }
  void release() const { call(LOCK_UN); }

 private:
  void call(int operation) const {
    if (::flock(fd_, operation) != 0) {
      peer::fail("flock");
    }
  }
  int fd_;
};

class Ofd {
 public:
  explicit Ofd(const char* path) : fd_(open_file(path)) {}
  void acquire() const { call(F_WRLCK); }
  void release() const { call(F_UNLCK); }

 private:
  void call(short type) const {
    struct flock lock {};
    lock.l_type = type;
    if (::fcntl(fd_, F_OFD_SETLKW, &lock) != 0) {
      peer::fail("F_OFD_SETLKW");
    }
  }
  int fd_;
};

class Boost {
 public:
  explicit Boost(const char* path) {
    ::close(open_file(path));
    lock_ = boost::interprocess::file_lock(path);
  }
  void acquire() { lock_.lock(); }
  void release() { lock_.unlock(); }

 private:
  boost::interprocess::file_lock lock_;
};

template <class Lock>
int serve(const char* path) {
  Lock lock(path);
  return peer::serve(lock);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    return EXIT_FAILURE;
  }
  const std::string_view variant = argv[1];
  return variant == "flock" ? serve<Flock>(argv[2]) : variant == "ofd" ? serve<Ofd>(argv[2]) : serve<Boost>(argv[2]);
}
