#include "system/random_id.hpp"

#include <cstddef>
#include <mutex>
#include <string_view>

#include "system/per_process.hpp"
#include "system/system.hpp"

namespace sessionlock {
namespace {

/// Random bytes in stock, because asking the kernel for each id's would be a system call more for each lock. A forked
/// child has a stock of its own.
class RandomStock {
 public:
  tl::expected<RandomId, std::error_code> take() {
    const std::lock_guard lock(mutex_);
    if (used_ == stock_.size()) {
      const auto got = sys::getrandom(stock_.data(), sizeof stock_);
      if (!got.ok() || static_cast<std::size_t>(got.value) != sizeof stock_) {
        return tl::unexpected(got.code());
      }
      used_ = 0;
    }
    return stock_[used_++];
  }

 private:
  std::mutex mutex_;
  std::array<RandomId, 16> stock_{};  // up to 256 bytes come in one piece (getrandom(2))
  std::size_t used_{stock_.size()};
};
PerProcess<RandomStock> g_random_stock;

}  // namespace

tl::expected<RandomId, std::error_code> random_id() {
  return g_random_stock.get().take();
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
