#include "cli/line_source.hpp"

#include <algorithm>
#include <array>
#include <cerrno>

#include <unistd.h>

#include "cli/signals.hpp"

namespace sessionlock::cli {
namespace {

constexpr std::size_t k_chunk_bytes = std::size_t{256} * 1024;

}  // namespace

LineSource::LineSource(int fd, int interrupt_fd, std::size_t line_bytes_max)
    : fd_(fd), interrupt_fd_(interrupt_fd), line_bytes_max_(line_bytes_max), chunk_(k_chunk_bytes) {}

LineSource::Read LineSource::read_some() {
  const ssize_t count = ::read(fd_, chunk_.data(), chunk_.size());
  if (count > 0) {
    buffer_.append(chunk_.data(), static_cast<std::size_t>(count));
    find_newlines();
    return Read::some;
  }
  if (count == 0) {
    end_ = Batch::End::end;
    return Read::end;
  }
  const int number = errno;
  // A process that shares the descriptor may have made it non-blocking.
  if (number == EINTR || number == EAGAIN || number == EWOULDBLOCK) {
    return Read::nothing_now;
  }
  error_ = {number, std::system_category()};
  end_ = Batch::End::failed;
  return Read::failed;
}

void LineSource::find_newlines() {
  for (std::size_t at = buffer_.find('\n', searched_); at != std::string::npos; at = buffer_.find('\n', at + 1)) {
    ends_.push_back(at);
  }
  searched_ = buffer_.size();
}

bool LineSource::batch_is_full() const {
  return !ends_.empty() && (ends_.size() >= k_batch_lines_max || buffer_.size() - taken_ >= k_batch_bytes_max);
}

void LineSource::fill() {
  while (end_ == Batch::End::open && !batch_is_full()) {
    if (ends_.empty() && buffer_.size() - taken_ > line_bytes_max_) {
      end_ = Batch::End::too_long;
    } else if (is_readable(fd_)) {
      static_cast<void>(read_some());
    } else if (!ends_.empty()) {
      return;
    } else {
      wait_readable(std::array{fd_, interrupt_fd_});
    }
    if (is_readable(interrupt_fd_)) {
      end_ = Batch::End::interrupted;
    }
  }
}

void LineSource::forget_taken() {
  // Seldom, because it moves what is left.
  if (taken_ < buffer_.size() && taken_ < k_batch_bytes_max) {
    return;
  }
  buffer_.erase(0, taken_);
  for (std::size_t& end : ends_) {
    end -= taken_;
  }
  searched_ -= taken_;
  taken_ = 0;
}

Batch LineSource::next() {
  forget_taken();
  fill();
  if (end_ == Batch::End::end && ends_.empty() && taken_ < buffer_.size()) {
    ends_.push_back(buffer_.size());
  }
  Batch batch;
  batch.first_line = next_line_;
  const std::size_t start = taken_;
  for (const std::size_t end : ends_) {
    const bool fits = end + 1 - start <= k_batch_bytes_max && batch.lines.size() < k_batch_lines_max;
    if (end_ == Batch::End::interrupted || (!batch.lines.empty() && !fits)) {
      break;
    }
    batch.lines.push_back(std::string_view{buffer_}.substr(taken_, end - taken_));
    taken_ = std::min(end + 1, buffer_.size());
  }
  ends_.erase(ends_.begin(), ends_.begin() + static_cast<std::ptrdiff_t>(batch.lines.size()));
  next_line_ += batch.lines.size();
  // With lines left over, their turn comes before the end's.
  if (batch.lines.empty() || end_ == Batch::End::interrupted) {
    batch.end = end_;
    batch.error = error_;
  }
  return batch;
}

}  // namespace sessionlock::cli
