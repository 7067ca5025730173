#include "chaos/surroundings.hpp"

#include <chrono>
#include <fstream>

#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "process.hpp"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

namespace sessionlock::test::chaos {
namespace {

using namespace std::chrono_literals;

constexpr uid_t k_owner = 2001;
constexpr gid_t k_group = 2002;
constexpr uid_t k_first_neighbour = 2100;

/// A time namespace whose clocks differ from this process's; an open descriptor of it.
int make_time_namespace(std::chrono::seconds monotonic, std::chrono::seconds boottime) {
  if (::unshare(CLONE_NEWTIME) != 0) {
    throw ProcessFailure("unshare of the time namespace");
  }
  std::ofstream("/proc/self/timens_offsets")
      << "monotonic " << monotonic.count() << " 0\nboottime " << boottime.count() << " 0\n";
  const int made = ::open("/proc/self/ns/time_for_children", O_RDONLY | O_CLOEXEC);
  if (made < 0) {
    throw ProcessFailure("opening a time namespace");
  }
  return made;
}

}  // namespace

const char* shared_directory_options() {
  return "mode=3770,uid=2001,gid=2002";
}

void make_shared_sessions(const std::filesystem::path& directory) {
  for (std::size_t number = 0; number < k_sessions; ++number) {
    const auto path = session_path(directory, number);
    write_text(path, "");
    if (::chown(path.c_str(), k_owner, k_group) != 0 || ::chmod(path.c_str(), 0660) != 0) {
      throw ProcessFailure("giving a session to its owner");
    }
  }
}

std::vector<int> make_time_namespaces() {
  std::vector<int> made{::open("/proc/self/ns/time", O_RDONLY | O_CLOEXEC)};
  made.push_back(make_time_namespace(2h, 2h));
  made.push_back(make_time_namespace(0s, 20min));
  made.push_back(make_time_namespace(-1min, -1min));
  if (::setns(made.front(), CLONE_NEWTIME) != 0) {
    throw ProcessFailure("returning to the time namespace");
  }
  return made;
}

void become(As as, std::size_t slot) {
  const bool keeps_time = as == As::time_owner;
  ::prctl(PR_SET_KEEPCAPS, keeps_time ? 1 : 0);
  become_user(as == As::neighbour ? k_first_neighbour + static_cast<uid_t>(slot) : k_owner, k_group);
  if (keeps_time) {
    struct __user_cap_header_struct header {
      _LINUX_CAPABILITY_VERSION_3, 0
    };
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] {};
    data[0].effective = data[0].permitted = 1U << CAP_SYS_ADMIN;
    if (::syscall(SYS_capset, &header, data) != 0) {
      throw ProcessFailure("capset");
    }
  }
}

}  // namespace sessionlock::test::chaos
