// The end of a transcript as a crash may have left it, and the append that meets it: real files, under a real lock, in
// a temporary directory that is this target's own. Whatever stands there, nothing of it is lost, the new record is a
// line of its own, and what was moved aside is told.
//
// The first byte says whether an earlier repair was cut off as well; the rest is the session file.

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sessionlock/lock_manager.hpp>
#include <sessionlock/transcript.hpp>

#include "support/json_oracle.hpp"
#include "support/target.hpp"

using sessionlock::fuzz::Json;

namespace {

constexpr std::string_view k_record = R"({"new":1})";

/// A session under a lock, and what lies beside it.
class Scene {
 public:
  Scene() {
    std::string name = (std::filesystem::temp_directory_path() / "sessionlock-fuzz.XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) {
      throw std::system_error(errno, std::generic_category(), name);
    }
    directory_ = name;
    lock_ = std::make_unique<sessionlock::SessionLock>(
        sessionlock::value_or_throw(sessionlock::LockManager().try_acquire(session())));
  }
  ~Scene() {
    lock_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }
  Scene(const Scene&) = delete;
  Scene& operator=(const Scene&) = delete;

  [[nodiscard]] std::filesystem::path session() const { return directory_ / "s.jsonl"; }
  [[nodiscard]] std::filesystem::path torn() const { return directory_ / "s.jsonl.torn"; }
  [[nodiscard]] sessionlock::SessionLock& lock() { return *lock_; }

 private:
  std::filesystem::path directory_;
  std::unique_ptr<sessionlock::SessionLock> lock_;
};

void fill(const std::filesystem::path& path, std::string_view text) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  FUZZ_CHECK(fd >= 0 && ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  (void)::close(fd);
}

std::string content_of(const std::filesystem::path& path) {
  std::string text;
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd >= 0) {
    struct stat status {};
    FUZZ_CHECK(::fstat(fd, &status) == 0);
    text.resize(static_cast<std::size_t>(status.st_size));
    FUZZ_CHECK(::read(fd, text.data(), text.size()) == status.st_size);
    (void)::close(fd);
  }
  return text;
}

/// A record that lacks nothing but its newline. Of a number nobody knows how long it was to be.
bool is_whole(std::string_view tail) {
  const auto value = sessionlock::fuzz::read_json(tail);
  return value && value->kind != Json::Kind::number;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Scene scene;
  sessionlock::fuzz::Input input(data, std::min(size, sessionlock::fuzz::k_oracle_bytes_max));
  const std::string torn_before = input.flag() ? "an earlier one, cut off" : "";
  const std::string before(input.rest());
  fill(scene.session(), before);
  fill(scene.torn(), torn_before);

  const std::string tail = before.substr(before.rfind('\n') + 1);  // npos + 1 is 0
  const bool whole = is_whole(tail);
  const std::string kept = tail.empty() || whole ? before : before.substr(0, before.size() - tail.size());
  const std::string newline = tail.empty() || !whole ? "" : "\n";
  const bool moved = !tail.empty() && !whole;

  auto transcript = sessionlock::Transcript::open(scene.lock());
  FUZZ_CHECK(transcript.has_value());
  for (int i = 0; i < 2; ++i) {
    const auto report = transcript->append(k_record);
    FUZZ_CHECK(report.has_value());
    FUZZ_CHECK(report->records == 1);
    FUZZ_CHECK(report->torn_bytes_moved == (moved && i == 0 ? tail.size() : 0));
    FUZZ_CHECK(report->offset == kept.size() + newline.size() + static_cast<std::size_t>(i) * (k_record.size() + 1));
  }
  const std::string added = std::string(k_record) + "\n";
  FUZZ_CHECK(content_of(scene.session()) == kept + newline + added + added);
  FUZZ_CHECK(content_of(scene.torn()) ==
             (moved ? torn_before + (torn_before.empty() ? "" : "\n") + tail + "\n" : torn_before));

  // The same rule for a record that is given.
  const bool is_record = !before.empty() && before.find('\n') == std::string::npos && before.size() > 0 &&
                         sessionlock::fuzz::read_json(before).has_value();
  FUZZ_CHECK(sessionlock::is_transcript_record(before) == is_record);
  FUZZ_CHECK(transcript->append(before).has_value() == is_record);
  return 0;
}
