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

/// The oracle reads the last line anew for each place at which a value may end.
constexpr std::size_t k_bytes_max = sessionlock::fuzz::k_oracle_bytes_max / 8;
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

constexpr std::string_view k_space = " \t\r";

/// The rest of a text from its first character on that is none of these.
std::string_view skip(std::string_view text, std::string_view characters) {
  return text.substr(std::min(text.find_first_not_of(characters), text.size()));
}

/// Whether the text is a value, and no number: of that nobody knows how long it was to be.
bool is_whole(std::string_view text) {
  const auto value = sessionlock::fuzz::read_json(text);
  return value && value->kind != Json::Kind::number;
}

/// How much of a text is a whole value at its beginning: the shortest part that is one. 0: it begins with none.
std::size_t whole_length(std::string_view text) {
  for (std::size_t length = 1; length <= text.size(); ++length) {
    const bool can_end = std::string_view("}]\"le").find(text[length - 1]) != std::string_view::npos;
    if (can_end && is_whole(text.substr(0, length))) {
      const bool is_word = text[length - 1] == 'l' || text[length - 1] == 'e';
      const bool ends_there =
          length == text.size() || std::string_view(" \t\r,]}").find(text[length]) != std::string_view::npos;
      return is_word && !ends_there ? 0 : length;
    }
  }
  return 0;
}

/// What is to become of a file, by the rule as the documentation has it.
struct Expected {
  std::string kept{};
  bool lacks_newline{false};
  std::string moved{};
};

/// What stays of the last line, behind its NULs; `text` ends before the next one.
std::string_view kept_part(std::string_view text, bool after_nuls) {
  const std::size_t mark = text.starts_with("\xef\xbb\xbf") ? 3 : 0;
  const std::string_view value = text.substr(mark);
  if (is_whole(value)) {
    return text;
  }
  const std::size_t length = whole_length(value);
  if (after_nuls || length == 0) {
    return {};
  }
  const std::string_view next = skip(value.substr(length), k_space);
  const bool is_container = value[length - 1] == '}' || value[length - 1] == ']';
  const bool goes_on =
      !is_container && !next.empty() && std::string_view(",:]}").find(next.front()) != std::string_view::npos;
  return goes_on ? std::string_view{} : text.substr(0, mark + length);
}

Expected expect(std::string_view before) {
  constexpr std::string_view nul("\0", 1);
  const std::string_view data = before.substr(0, before.find_last_not_of('\0') + 1);  // npos + 1 is 0
  const std::string_view line = data.substr(data.rfind('\n') + 1);
  const std::string_view lines = data.substr(0, data.size() - line.size());
  if (line.empty()) {
    return {std::string(lines), false, {}};
  }
  const std::string_view text = skip(line, nul);
  const std::string_view part = kept_part(text.substr(0, text.find('\0')), text.size() < line.size());
  if (part.empty()) {
    return {std::string(lines), false, std::string(text)};
  }
  const std::size_t nuls = line.size() - text.size();
  return {std::string(data.substr(0, lines.size() + nuls + part.size())), true,
          std::string(skip(text.substr(part.size()), nul))};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Scene scene;
  sessionlock::fuzz::Input input(data, std::min(size, k_bytes_max));
  const std::string torn_before = input.flag() ? "an earlier one, cut off" : "";
  const std::string before(input.rest());
  fill(scene.session(), before);
  fill(scene.torn(), torn_before);

  // A file that ends with a newline is not looked at.
  const Expected expected = before.ends_with('\n') ? Expected{before, false, {}} : expect(before);
  const std::string newline = expected.lacks_newline ? "\n" : "";
  const std::size_t nuls = before.size() - expected.kept.size() - expected.moved.size();

  auto transcript = sessionlock::Transcript::open(scene.lock());
  FUZZ_CHECK(transcript.has_value());
  for (int i = 0; i < 2; ++i) {
    const auto report = transcript->append(k_record);
    FUZZ_CHECK(report.has_value());
    FUZZ_CHECK(report->records == 1);
    FUZZ_CHECK(report->torn_bytes_moved == (i == 0 ? expected.moved.size() : 0));
    FUZZ_CHECK(report->nul_bytes_cut == (i == 0 ? nuls : 0));
    FUZZ_CHECK(report->torn_bytes_left == 0);
    FUZZ_CHECK(report->offset ==
               expected.kept.size() + newline.size() + static_cast<std::size_t>(i) * (k_record.size() + 1));
  }
  const std::string added = std::string(k_record) + "\n";
  FUZZ_CHECK(content_of(scene.session()) == expected.kept + newline + added + added);
  FUZZ_CHECK(
      content_of(scene.torn()) ==
      (expected.moved.empty() ? torn_before : torn_before + (torn_before.empty() ? "" : "\n") + expected.moved + "\n"));

  // The same rule for a record that is given.
  const bool is_record = !before.empty() && before.find('\n') == std::string::npos && before.size() > 0 &&
                         sessionlock::fuzz::read_json(before).has_value();
  FUZZ_CHECK(sessionlock::is_transcript_record(before) == is_record);
  FUZZ_CHECK(transcript->append(before).has_value() == is_record);
  return 0;
}
