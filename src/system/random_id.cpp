#include "system/random_id.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "system/mutex.hpp"
#include "system/per_process.hpp"
#include "system/system.hpp"

namespace sessionlock {
namespace {

/// Of an id: tells this process from every other that ever was.
constexpr std::size_t k_prefix_bytes = 10;

/// One random prefix for the process, so that an acquire costs no system call for its id, and behind it a counter,
/// whose 48 bits last for ever. A forked child has a prefix of its own.
class IdSource {
 public:
  tl::expected<RandomId, std::error_code> next() {
    const MutexLock lock(mutex_);
    if (count_ == 0) {
      const auto got = sys::getrandom(id_.data(), k_prefix_bytes);
      if (!got.ok() || static_cast<std::size_t>(got.value) != k_prefix_bytes) {
        return tl::unexpected(got.code());
      }
    }
    std::uint64_t rest = ++count_;
    std::for_each(id_.rbegin(), id_.rend() - k_prefix_bytes, [&rest](std::uint8_t& byte) {
      byte = static_cast<std::uint8_t>(rest & 0xffU);
      rest >>= 8U;
    });
    return id_;
  }

 private:
  Mutex mutex_;
  RandomId id_ GUARDED_BY(mutex_){};  // the last one given
  std::uint64_t count_ GUARDED_BY(mutex_){0};
};
PerProcess<IdSource> g_ids;

}  // namespace

tl::expected<RandomId, std::error_code> random_id() {
  return g_ids.get().next();
}

HexText hex_text(const RandomId& id) {
  constexpr std::string_view k_digits = "0123456789abcdef";
  HexText text;
  for (std::size_t i = 0; i < id.size(); ++i) {
    text[2 * i] = k_digits[id[i] >> 4U];
    text[2 * i + 1] = k_digits[id[i] & 0xfU];
  }
  return text;
}

tl::expected<std::string, std::error_code> random_lock_id() {
  return random_id().map([](const RandomId& id) {
    const HexText text = hex_text(id);
    return std::string(text.data(), text.size());
  });
}

Error random_failure(const std::error_code& code, const std::filesystem::path& path) {
  return {code, "getrandom", path, std::nullopt, {}};
}

}  // namespace sessionlock
