#include "process/proc_text.hpp"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <limits>
#include <system_error>

namespace sessionlock {
namespace {

/// The text up to the next separator; what is left begins after it.
std::string_view take_until(std::string_view& text, char separator) {
  const auto end = text.find(separator);
  const std::string_view taken = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return taken;
}

/// The next word of a line whose words are separated by any number of blanks; empty at the end.
std::string_view take_word(std::string_view& line) {
  line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
  const std::string_view word = line.substr(0, line.find_first_of(" \t"));
  line.remove_prefix(word.size());
  return word;
}

template <class T>
std::optional<T> parse_number(std::string_view text, int base = 10) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc{} || end != text.data() + text.size()) {
    return std::nullopt;
  }
  return value;
}

/// Skips fields that are separated by single blanks; false if one is missing.
bool skip_fields(std::string_view& text, int count) {
  for (int i = 0; i < count; ++i) {
    if (take_until(text, ' ').empty()) {
      return false;
    }
  }
  return true;
}

/// One line of `/proc/locks`, proc_locks(5): `1: FLOCK  ADVISORY  WRITE 1234 fe:00:12345 0 EOF`. One that waits has
/// `->` after the number.
struct LockLine {
  bool flock{};
  bool ofd{};
  bool write{};
  bool waits{};
  pid_t pid{};
  unsigned major{};
  unsigned minor{};
  std::uint64_t inode{};
  std::uint64_t begin{};
  std::uint64_t end{};
};

std::optional<LockLine> parse_lock_line(std::string_view line) {
  LockLine result;
  (void)take_word(line);  // the number
  std::string_view kind = take_word(line);
  result.waits = kind == "->";
  if (result.waits) {
    kind = take_word(line);
  }
  result.flock = kind == "FLOCK";
  result.ofd = kind == "OFDLCK";
  (void)take_word(line);  // ADVISORY
  result.write = take_word(line) == "WRITE";
  const auto pid = parse_number<pid_t>(take_word(line));
  std::string_view file = take_word(line);
  const auto major = parse_number<unsigned>(take_until(file, ':'), 16);
  const auto minor = parse_number<unsigned>(take_until(file, ':'), 16);
  const auto inode = parse_number<std::uint64_t>(file);
  // A line that was cut off inside the inode's digits would name another file: the offset after it must be there.
  const auto begin = parse_number<std::uint64_t>(take_word(line));
  if (!pid || !major || !minor || !inode || !begin) {
    return std::nullopt;
  }
  // `EOF`, or cut off: as far as it may reach.
  result.end = parse_number<std::uint64_t>(take_word(line)).value_or(std::numeric_limits<std::uint64_t>::max());
  result.pid = *pid;
  result.major = *major;
  result.minor = *minor;
  result.inode = *inode;
  result.begin = *begin;
  return result;
}

}  // namespace

std::optional<pid_t> parse_pid(std::string_view text) {
  return parse_number<pid_t>(text);
}

std::optional<ProcStat> parse_proc_stat(std::string_view line) {
  const auto name_end = line.rfind(')');
  if (name_end == std::string_view::npos) {
    return std::nullopt;
  }
  std::string_view rest = line.substr(name_end + 1);
  if (!take_until(rest, ' ').empty()) {
    return std::nullopt;
  }
  const std::string_view state = take_until(rest, ' ');  // field 3
  constexpr int k_fields_before_threads = 16;            // 4 … 19
  const bool is_letter =
      state.size() == 1 && ((state[0] >= 'A' && state[0] <= 'Z') || (state[0] >= 'a' && state[0] <= 'z'));
  if (!is_letter || !skip_fields(rest, k_fields_before_threads)) {
    return std::nullopt;
  }
  const auto threads = parse_number<std::int64_t>(take_until(rest, ' '));  // field 20
  if (!threads || *threads < 0 || !skip_fields(rest, 1)) {
    return std::nullopt;
  }
  // Something must follow field 22: digits at the very end may have been cut.
  const auto end = rest.find_first_of(" \n");
  const auto start_time =
      end == std::string_view::npos ? std::nullopt : parse_number<std::uint64_t>(rest.substr(0, end));
  if (!start_time) {
    return std::nullopt;
  }
  return ProcStat{state.front(), *threads, *start_time};
}

bool status_is_of_own_namespace(std::string_view proc_status) {
  while (!proc_status.empty()) {
    std::string_view line = take_until(proc_status, '\n');
    if (take_word(line) == "NSpid:") {
      return !take_word(line).empty() && take_word(line).empty();
    }
  }
  return true;  // a kernel without PID namespaces
}

std::optional<std::int64_t> parse_btime(std::string_view proc_stat) {
  while (!proc_stat.empty()) {
    // A line that was cut has no newline, and may lack digits.
    if (proc_stat.find('\n') == std::string_view::npos) {
      return std::nullopt;
    }
    std::string_view line = take_until(proc_stat, '\n');
    if (take_word(line) == "btime") {
      const auto seconds = parse_number<std::int64_t>(take_word(line));
      return take_word(line).empty() ? seconds : std::nullopt;
    }
  }
  return std::nullopt;
}

bool timens_offsets_are_zero(std::string_view timens_offsets) {
  // `monotonic 0 0`, `boottime 0 0`: clock, seconds, nanoseconds (time_namespaces(7)).
  int clocks = 0;
  while (!timens_offsets.empty()) {
    std::string_view line = take_until(timens_offsets, '\n');
    const std::string_view clock = take_word(line);
    const std::string_view seconds = take_word(line);
    const std::string_view nanoseconds = take_word(line);
    if (clock.empty() || seconds != "0" || nanoseconds != "0" || !take_word(line).empty()) {
      return false;
    }
    ++clocks;
  }
  return clocks > 0;
}

std::optional<pid_t> parse_flock_holder(std::string_view proc_locks, unsigned major, unsigned minor,
                                        std::uint64_t inode) {
  std::optional<pid_t> waiting;
  while (!proc_locks.empty()) {
    const auto line = parse_lock_line(take_until(proc_locks, '\n'));
    // A pid of 0 or less is of another namespace, or of nobody in particular.
    if (!line || !line->flock || line->pid <= 0 || line->major != major || line->minor != minor ||
        line->inode != inode) {
      continue;
    }
    if (!line->waits) {
      return line->pid;
    }
    waiting = waiting ? waiting : line->pid;
  }
  return waiting;
}

std::vector<ListedFlock> parse_flocks(std::string_view proc_locks, std::uint64_t inode) {
  std::vector<ListedFlock> found;
  while (!proc_locks.empty()) {
    const auto line = parse_lock_line(take_until(proc_locks, '\n'));
    if (line && line->flock && !line->waits && line->pid > 0 && line->inode == inode) {
      found.push_back({line->pid, line->major, line->minor});
    }
  }
  return found;
}

bool has_flock_line(std::string_view fdinfo, unsigned major, unsigned minor, std::uint64_t inode) {
  while (!fdinfo.empty()) {
    std::string_view text = take_until(fdinfo, '\n');
    if (take_word(text) != "lock:") {
      continue;
    }
    const auto line = parse_lock_line(text);
    if (line && line->flock && line->major == major && line->minor == minor && line->inode == inode) {
      return true;
    }
  }
  return false;
}

std::string_view mounted_type(std::string_view mountinfo, unsigned major, unsigned minor) {
  // `36 35 98:0 /root /at rw,noatime master:1 - ext3 /dev/root rw` (proc_pid_mountinfo(5)): any number of fields stand
  // before the hyphen, and paths have no blanks.
  while (!mountinfo.empty()) {
    std::string_view line = take_until(mountinfo, '\n');
    (void)take_word(line);
    (void)take_word(line);
    std::string_view device = take_word(line);
    if (parse_number<unsigned>(take_until(device, ':')) != major || parse_number<unsigned>(device) != minor) {
      continue;
    }
    constexpr std::string_view k_hyphen = " - ";
    const auto hyphen = line.find(k_hyphen);
    if (hyphen != std::string_view::npos) {
      line.remove_prefix(hyphen + k_hyphen.size());
      return take_word(line);
    }
  }
  return {};
}

std::optional<bool> lists_ofd_write_lock(std::string_view proc_locks, std::uint64_t inode, std::uint64_t offset) {
  if (!proc_locks.empty() && proc_locks.back() != '\n') {
    return std::nullopt;
  }
  while (!proc_locks.empty()) {
    const std::string_view text = take_until(proc_locks, '\n');
    const auto line = parse_lock_line(text);
    if (!line && text.find("OFDLCK") != std::string_view::npos) {
      return std::nullopt;
    }
    if (line && line->ofd && line->write && !line->waits && line->inode == inode && line->begin <= offset &&
        offset <= line->end) {
      return true;
    }
  }
  return false;
}

}  // namespace sessionlock
