#pragma once

/// \file
/// Descriptors of a program that uses the library, each in a state that shows whether anything has touched it.
///
///     OwnDescriptors own(directory, 16, seed);
///     (void)lock.release();
///     CHECK(own.changes().empty());

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <sys/stat.h>

namespace sessionlock::test {

/// Locked files, directories, pipes, sockets, eventfds, inotify instances, epolls, timers and pidfds. They get the
/// lowest free numbers from 3 up, in an order that `seed` decides.
class OwnDescriptors {
 public:
  /// Opens at least `count`. Files of its own are made in `directory`; its directories hold files with the names
  /// `decoys`, so that a call relative to one of them is seen.
  OwnDescriptors(std::filesystem::path directory, std::size_t count, std::uint64_t seed,
                 std::vector<std::string> decoys = {});
  /// Closes what is still its own.
  ~OwnDescriptors();
  OwnDescriptors(const OwnDescriptors&) = delete;
  OwnDescriptors& operator=(const OwnDescriptors&) = delete;

  /// What is not as it was when it was opened: a descriptor that is closed, another open file, or not in the same
  /// state (position, flags, locks, counters, watches, unread bytes, content). One English sentence each.
  [[nodiscard]] std::vector<std::string> changes() const;
  [[nodiscard]] std::size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    int number{-1};
    /// The same open file under a number that no library gets.
    int backup{-1};
    std::string kind{};
    std::string state{};
  };
  void open_one(std::size_t kind);
  void open_file(bool locked);
  void open_directory();
  void open_pipe();
  void open_sockets();
  void open_inotify();
  void open_epoll();
  void add(int number, std::string kind);
  [[nodiscard]] std::filesystem::path new_path(const char* what);
  [[nodiscard]] std::string change_of(const Entry& entry) const;

  std::filesystem::path directory_;
  std::vector<std::string> decoys_;
  std::vector<Entry> entries_{};
  std::size_t paths_{0};
  int first_backup_;
};

}  // namespace sessionlock::test
