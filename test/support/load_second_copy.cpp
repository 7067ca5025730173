#include <algorithm>
#include <utility>

#include <dlfcn.h>

#include "process.hpp"
#include "second_copy.hpp"

namespace sessionlock::test {

const SecondCopy& SecondCopy::load() {
  static const SecondCopy copy = [] {
    const auto path = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "second_copy.so";
    void* const module = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    const void* const found = module != nullptr ? ::dlsym(module, k_copy_entry) : nullptr;
    if (found == nullptr) {
      throw ProcessFailure(::dlerror());
    }
    return SecondCopy(*static_cast<const CopyFunctions*>(found));
  }();
  return copy;
}

Result<void> SecondCopy::result_of(const CopyAnswer& answer) {
  if (answer.code == 0) {
    return {};
  }
  const auto code =
      answer.code > 0 ? make_error_code(static_cast<Errc>(answer.code)) : std::make_error_code(std::errc::io_error);
  return tl::unexpected(Error{code, "second copy", {}, {}, answer.words.data()});
}

Result<SecondCopy::Lock> SecondCopy::acquire(const std::filesystem::path& session,
                                             const AcquireOptions& options) const {
  constexpr std::chrono::milliseconds most{std::chrono::hours{24}};
  const auto count = [&](std::chrono::milliseconds time) { return static_cast<int>(std::min(time, most).count()); };
  CopyAnswer answer;
  void* const lock =
      functions_.acquire(session.c_str(), count(options.timeout), count(options.stale.malformed_grace), &answer);
  if (auto result = result_of(answer); !result) {
    return tl::unexpected(std::move(result).error());
  }
  return Lock(functions_, lock);
}

Result<void> SecondCopy::Lock::release() {
  CopyAnswer answer;
  if (void* const lock = std::exchange(lock_, nullptr); lock != nullptr) {
    functions_->release(lock, &answer);
  }
  return result_of(answer);
}

}  // namespace sessionlock::test
