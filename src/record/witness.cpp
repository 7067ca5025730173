#include "record/witness.hpp"

#include <algorithm>
#include <charconv>
#include <system_error>

namespace sessionlock {
namespace {

constexpr std::string_view k_prefix = "ofd:";

}  // namespace

WitnessText::WitnessText(const FileIdentity& file) {
  char* at = std::copy(k_prefix.begin(), k_prefix.end(), text_.begin());
  at = std::to_chars(at, text_.end(), file.device).ptr;
  *at++ = ':';
  at = std::to_chars(at, text_.end(), file.inode).ptr;
  size_ = static_cast<std::size_t>(at - text_.begin());
}

std::string format_witness(const FileIdentity& file) {
  return std::string(WitnessText(file).view());
}

bool is_witness(std::string_view text) {
  if (text.substr(0, k_prefix.size()) != k_prefix) {
    return false;
  }
  const char* const end = text.data() + text.size();
  std::uint64_t number{};
  const auto device = std::from_chars(text.data() + k_prefix.size(), end, number);
  if (device.ec != std::errc{} || device.ptr == end || *device.ptr != ':') {
    return false;
  }
  const auto inode = std::from_chars(device.ptr + 1, end, number);
  return inode.ec == std::errc{} && inode.ptr == end;
}

}  // namespace sessionlock
