#include "sessions/transcript_end.hpp"

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include <doctest/doctest.h>
#include <unistd.h>

#include "process.hpp"
#include "protocol/directory.hpp"
#include "script.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::string_view_literals;

namespace {

constexpr std::uint64_t k_gib = std::uint64_t{1} << 30U;

/// A file with a text in it.
struct Sample {
  explicit Sample(std::string_view text, const fs::path& folder) : path(folder / "s.jsonl") {
    write_text(path, text);
    struct stat status {};
    file = value_or_throw(
        AppendedFile::open(*value_or_throw(open_directory(folder.native())), "s.jsonl", S_IRUSR | S_IWUSR, status));
  }
  /// Makes it longer by a hole, and by a text behind that.
  void add(std::uint64_t hole, std::string_view text) const {
    REQUIRE(::truncate(path.c_str(), static_cast<off_t>(fs::file_size(path) + hole)) == 0);
    std::ofstream(path, std::ios::binary | std::ios::app) << text << std::flush;
  }
  [[nodiscard]] TranscriptEnd end() const { return value_or_throw(find_transcript_end(file, fs::file_size(path))); }
  [[nodiscard]] bool is_transcript() const { return value_or_throw(has_lines_of_objects(file, fs::file_size(path))); }

  fs::path path;
  AppendedFile file{};
};

/// How many bytes are read while a function runs.
template <class F>
std::uint64_t bytes_read(F&& function) {
  std::uint64_t bytes = 0;
  const Script script([&](const sys::CallInfo& info) {
    bytes += info.call == sys::Call::pread ? *info.length : 0;
    return 0;
  });
  function();
  return bytes;
}

bool is_transcript(std::string_view text) {
  const TemporaryDirectory directory;
  return Sample(text, directory.path()).is_transcript();
}

}  // namespace

TEST_CASE("of an incomplete line a whole value stays, with what stands before it") {
  CHECK(kept_length("{\"a\":1}", false) == 7);
  CHECK(kept_length("{\"a\":1} \r", false) == 9);
  CHECK(kept_length(" {\"a\":1}x", false) == 8);
  CHECK(kept_length("{}}", false) == 2);
  CHECK(kept_length("[],", false) == 2);
  CHECK(kept_length("{}{}", false) == 2);
  CHECK(kept_length("\"a\" b", false) == 3);
  CHECK(kept_length("null", false) == 4);
  CHECK(kept_length("\xef\xbb\xbf{}", false) == 5);
  CHECK(kept_length("\xef\xbb\xbf {} x", false) == 6);
}

TEST_CASE("of an incomplete line without a whole value nothing stays") {
  for (const auto text : {"", " ", "{", "{\"a\":1", "\"a", "nul", "x{}", "\xef\xbb\xbf", "\xef\xbb\xbf{",
                          "\xef\xbb\xbf\xef\xbb\xbf{}", "\xef\xbb{}"}) {
    CAPTURE(text);
    CHECK(kept_length(text, false) == 0);
  }
}

TEST_CASE("a number may be what is left of a longer one, whatever follows it") {
  for (const auto text : {"1", "12 ", " -1.5", "1 x",
                          "\xef\xbb\xbf"
                          "1",
                          "0]"}) {
    CAPTURE(text);
    CHECK(kept_length(text, false) == 0);
  }
}

TEST_CASE("a word or string that JSON goes on after is no record") {
  for (const auto text : {"\"a\":1}", "\"a\" : 1", "\"a\",", "null]", "true }", "\"a\"]x"}) {
    CAPTURE(text);
    CHECK(kept_length(text, false) == 0);
  }
}

TEST_CASE("behind NULs a value stays only if it is all there is, since a part of it may be among them") {
  CHECK(kept_length("{} ", true) == 3);
  CHECK(kept_length("{}}", true) == 0);
  CHECK(kept_length("\"a\" b", true) == 0);
  CHECK(kept_length("1", true) == 0);
}

TEST_CASE("the end of a transcript is taken to pieces between which there are only NULs") {
  const TemporaryDirectory directory;
  const Sample sample("{\"n\":1}\n{\"n\":2}\0\0\0{\"n\"\0\0\0"sv, directory.path());
  const TranscriptEnd end = sample.end();
  CHECK(end == TranscriptEnd{25, 8, 15, 18, 22});
  CHECK(end.fragment_bytes() == 4);
  CHECK(end.nul_bytes() == 6);
}

TEST_CASE("a hole of gigabytes at the end is not read") {
  std::string why_not;
  const auto memory = TmpfsMount::mount("size=8m", &why_not);
  const TemporaryDirectory disk;
  for (const auto& folder : {memory ? memory->path() : disk.path(), disk.path()}) {
    CAPTURE(folder);
    Sample sample("{\"a\":1}\n{\"b\":2}", folder);
    sample.add(3 * k_gib, "");
    TranscriptEnd end;
    CHECK(bytes_read([&] { end = sample.end(); }) < 1'000'000);
    CHECK(end == TranscriptEnd{15 + 3 * k_gib, 8, 15, 15, 15});
    CHECK(end.nul_bytes() == 3 * k_gib);

    sample.add(0, "{\"c");
    CHECK(bytes_read([&] { end = sample.end(); }) < 1'000'000);
    CHECK(end == TranscriptEnd{18 + 3 * k_gib, 8, 15, 15 + 3 * k_gib, 18 + 3 * k_gib});

    write_text(sample.path, "");
    sample.add(3 * k_gib, "");
    CHECK(bytes_read([&] { end = sample.end(); }) < 1'000'000);
    CHECK(end == TranscriptEnd{3 * k_gib, 0, 0, 0, 0});
  }
  if (!memory) {
    skip_aloud(why_not);
  }
}

TEST_CASE("where holes cannot be asked for, NULs are read, and the answer is the same") {
  const TemporaryDirectory directory;
  Sample sample("{\"a\":1}\n{\"b\":2}", directory.path());
  sample.add(300'000, "{\"c");
  sample.add(300'000, "");
  const TranscriptEnd end = sample.end();
  CHECK(end.fragment_start == 300'015);
  for (const int error : {EINVAL, EIO}) {
    const Script script(failing(sys::Call::lseek, error));
    CHECK(sample.end() == end);
  }
}

TEST_CASE("a file whose first and last whole lines are JSON objects is a transcript") {
  CHECK(is_transcript("{\"a\":1}\n{\"b"));
  CHECK(is_transcript("{\"a\":1}\nanything\n{}\r\n{\"b"));
  CHECK(is_transcript("\xef\xbb\xbf{\"a\":1}\n"));
  CHECK(is_transcript(" {\"a\":1}\n\0\0"sv));
}

TEST_CASE("a file without a whole line is a transcript if it begins like a JSON object") {
  for (const auto text :
       {"{"sv, "{\""sv, "{ \"a\":"sv, "\xef\xbb\xbf{\"a\":1}"sv, "{}"sv, "{\"a\":1}\0\0"sv, "{\0\0"sv}) {
    CAPTURE(text);
    CHECK(is_transcript(text));
  }
}

TEST_CASE("other files are no transcripts, and may be locked all the same") {
  for (const auto text :
       {""sv, "\0\0\0\0"sv, "words"sv, "{ echo; }"sv, "{{ name }}"sv, "[1,"sv, "1\n2\n3"sv, "a,b\n1,2\n3"sv,
        "[\n1,\n2\n]"sv, "{\n  \"a\": 1\n}"sv, "{}\nwords\nhalf"sv, "words\n{}\nhalf"sv, "[package]\nname = \"x\""sv,
        "SQLite format 3\0\n{}\n\1"sv, "\0{}\n{}\n{"sv}) {
    CAPTURE(text);
    CHECK_FALSE(is_transcript(text));
  }
}
