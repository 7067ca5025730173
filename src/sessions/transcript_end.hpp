#pragma once

/// \file
/// Where the records of a transcript end, and what stands behind them: a line that a crash cut off, NULs that a power
/// cut left or that were never written, a value that lacks its newline.

#include <cstdint>
#include <string_view>

#include <sessionlock/error.hpp>

#include "sessions/appended_file.hpp"

namespace sessionlock {

/// The end of a transcript, taken to pieces. All are offsets in the file, in bytes:
///
///     {"n":1}\n{"n":2}\0\0\0{"n"\0\0\0
///              ^      ^     ^   ^     ^
///     line_start      |     |   |     size
///              kept_end     |   fragment_end
///              fragment_start
///
/// Between the pieces, and behind the last one, there are only NULs.
struct TranscriptEnd {
  std::uint64_t size{0};
  /// Behind the last newline.
  std::uint64_t line_start{0};
  /// Up to here everything stays: behind the last newline, or behind a value that lacks its newline.
  std::uint64_t kept_end{0};
  /// Where the part of a record, or other text, that is to be moved away begins and ends; equal if there is none.
  std::uint64_t fragment_start{0};
  std::uint64_t fragment_end{0};

  [[nodiscard]] bool lacks_newline() const { return kept_end > line_start; }
  [[nodiscard]] std::uint64_t fragment_bytes() const { return fragment_end - fragment_start; }
  [[nodiscard]] std::uint64_t nul_bytes() const { return size - kept_end - fragment_bytes(); }
  friend bool operator==(const TranscriptEnd&, const TranscriptEnd&) = default;
};

/// How many bytes at the beginning of an incomplete last line stay where they are: those of a whole JSON value, and of
/// a byte-order mark and white space before it; 0 if there is none, or if it is a number, which may be what is left of
/// a longer one. A word or string before `,`, `:`, `]` or `}` is part of something longer, and no value. `text` is that
/// line up to its end or its first NUL. If NULs stand before it (`after_nuls`), its beginning may be lost, and it stays
/// as a whole or not at all.
[[nodiscard]] std::size_t kept_length(std::string_view text, bool after_nuls);

/// Looks at the end of a file of `size` bytes. Holes are stepped over, not read. Errors: of reading.
[[nodiscard]] Result<TranscriptEnd> find_transcript_end(const AppendedFile& file, std::uint64_t size);

/// Whether a file is one JSON object a line, as far as can be seen from its first line and its last whole one; or,
/// where there is no whole line, from its first characters. Errors: of reading.
[[nodiscard]] Result<bool> has_lines_of_objects(const AppendedFile& file, std::uint64_t size);

}  // namespace sessionlock
