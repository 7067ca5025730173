#include "sessions/transcript_end.hpp"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>

#include <sessionlock/transcript.hpp>

#include "text/json_grammar.hpp"

namespace sessionlock {
namespace {

constexpr std::string_view k_byte_order_mark = "\xef\xbb\xbf";
constexpr std::string_view k_space = " \t\r";
/// How much of the file is in memory at a time, besides a line.
constexpr std::size_t k_chunk_bytes = std::size_t{64} * 1024;
/// A record and what may stand before it.
constexpr std::size_t k_line_bytes_max = k_transcript_record_bytes_max + k_byte_order_mark.size();

char first_character(std::string_view text) {
  const auto at = text.find_first_not_of(k_space);
  return at == std::string_view::npos ? '\0' : text[at];
}

std::string_view without_byte_order_mark(std::string_view text) {
  return text.starts_with(k_byte_order_mark) ? text.substr(k_byte_order_mark.size()) : text;
}

/// Whether a text begins like a JSON object: `{`, and behind it the beginning of a name, or nothing.
bool begins_object(std::string_view text) {
  text = without_byte_order_mark(text);
  const std::size_t brace = std::min(text.find_first_not_of(k_space), text.size());
  if (brace == text.size() || text[brace] != '{') {
    return false;
  }
  const char next = first_character(text.substr(brace + 1));
  return next == '"' || next == '}' || next == '\0';
}

/// Looks for things in a file. After a read that failed it finds nothing more, and has the error.
class Search {
 public:
  explicit Search(const AppendedFile& file) : file_(file) {}

  /// Where the file's last byte ends that is no NUL; 0 if there is none.
  std::uint64_t end_of_data(std::uint64_t size) {
    return end_of_last(size, [](std::string_view chunk) { return chunk.find_last_not_of('\0'); });
  }

  /// Where the line begins that goes on up to `end`.
  std::uint64_t start_of_line(std::uint64_t end) {
    return end_of_last(end, [](std::string_view chunk) { return chunk.rfind('\n'); });
  }

  /// Where the first byte from `start` on stands that is no NUL; `end` if there is none before that.
  std::uint64_t skip_nuls(std::uint64_t start, std::uint64_t end) {
    for (start = file_.next_data(start, end); start < end && read(start, bytes_up_to(start, end));
         start = file_.next_data(start + chunk_.size(), end)) {
      if (const auto found = chunk_.find_first_not_of('\0'); found != std::string::npos) {
        return start + found;
      }
    }
    return end;
  }

  /// What stands between `start` and `end`, up to the first character of this kind, and at most a line's length of it.
  std::string read_up_to(std::uint64_t start, std::uint64_t end, char stop) {
    std::string text;
    while (start < end && text.size() < k_line_bytes_max && read(start, bytes_up_to(start, end))) {
      text += std::string_view(chunk_).substr(0, chunk_.find(stop));
      if (chunk_.find(stop) != std::string::npos) {
        break;
      }
      start += chunk_.size();
    }
    text.resize(std::min(text.size(), k_line_bytes_max));
    return text;
  }

  /// Whether the line from `start` up to its newline is one JSON object.
  bool is_object_line(std::uint64_t start, std::uint64_t end) {
    const std::string line = read_up_to(start, end, '\n');
    const std::string_view text = start == 0 ? without_byte_order_mark(line) : std::string_view(line);
    return first_character(text) == '{' && is_transcript_record(text);
  }

  /// The answer, if all could be read.
  template <class T>
  Result<T> answer(T found) {
    return error_ ? Result<T>(tl::unexpected(std::move(*error_))) : Result<T>(std::move(found));
  }

 private:
  static std::size_t bytes_up_to(std::uint64_t start, std::uint64_t end) {
    return static_cast<std::size_t>(std::min<std::uint64_t>(end - start, k_chunk_bytes));
  }

  /// Where the last byte before `end` ends that `find` finds in a chunk, other than a NUL; 0 if there is none.
  template <class F>
  std::uint64_t end_of_last(std::uint64_t end, F&& find) {
    while (end > 0) {
      const std::uint64_t start = end - bytes_up_to(0, end);
      if (!read(start, bytes_up_to(0, end))) {
        break;
      }
      if (const std::size_t found = find(std::string_view(chunk_)); found != std::string_view::npos) {
        return start + found + 1;
      }
      end = chunk_.find_first_not_of('\0') == std::string::npos ? file_.data_end_before(start) : start;
    }
    return 0;
  }

  bool read(std::uint64_t start, std::size_t size) {
    chunk_.resize(size);
    auto got = error_ ? Result<void>{} : file_.read(start, chunk_.data(), size);
    if (!got) {
      error_ = std::move(got).error();
    }
    return !error_;
  }

  const AppendedFile& file_;
  std::string chunk_{};
  std::optional<Error> error_{};
};

}  // namespace

std::size_t kept_length(std::string_view text, bool after_nuls) {
  const std::string_view body = without_byte_order_mark(text);
  const std::optional<std::size_t> end = end_of_json_value(body);
  if (!end) {
    return 0;
  }
  const char first = first_character(body);
  if (first == '-' || (first >= '0' && first <= '9')) {
    return 0;
  }
  const std::string_view rest = body.substr(*end);
  if (rest.find_first_not_of(k_space) == std::string_view::npos) {
    return text.size();
  }
  const bool is_container = first == '{' || first == '[';
  const bool goes_on = !is_container && std::string_view(",:]}").find(first_character(rest)) != std::string_view::npos;
  return after_nuls || goes_on ? 0 : text.size() - rest.size();
}

Result<TranscriptEnd> find_transcript_end(const AppendedFile& file, std::uint64_t size) {
  Search search(file);
  const std::uint64_t data_end = search.end_of_data(size);
  const std::uint64_t line_start = search.start_of_line(data_end);
  TranscriptEnd found{size, line_start, line_start, data_end, data_end};
  if (line_start == data_end) {
    return search.answer(found);
  }
  const std::uint64_t text_start = search.skip_nuls(line_start, data_end);
  const std::string text = search.read_up_to(text_start, data_end, '\0');
  if (const std::size_t kept = kept_length(text, text_start > line_start); kept > 0) {
    found.kept_end = text_start + kept;
    found.fragment_start = search.skip_nuls(found.kept_end, data_end);
  } else {
    found.fragment_start = text_start;
  }
  return search.answer(found);
}

Result<bool> has_lines_of_objects(const AppendedFile& file, std::uint64_t size) {
  Search search(file);
  const std::uint64_t data_end = search.end_of_data(size);
  const std::uint64_t line_start = search.start_of_line(data_end);
  if (line_start == 0) {
    return search.answer(begins_object(search.read_up_to(0, data_end, '\0')));
  }
  const bool found =
      search.is_object_line(0, line_start) && search.is_object_line(search.start_of_line(line_start - 1), line_start);
  return search.answer(found);
}

}  // namespace sessionlock
