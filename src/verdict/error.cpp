#include <sessionlock/error.hpp>

#include <fmt/core.h>

#include "text/duration_text.hpp"
#include "text/printable_text.hpp"
#include "verdict/explanation.hpp"

namespace sessionlock {
namespace {

class ErrorCategory final : public std::error_category {
 public:
  [[nodiscard]] const char* name() const noexcept override { return "sessionlock"; }

  [[nodiscard]] std::string message(int value) const override {
    switch (static_cast<Errc>(value)) {
      case Errc::locked:
        return "session file locked";
      case Errc::timed_out:
        return "timed out";
      case Errc::cancelled:
        return "cancelled while waiting";
      case Errc::lost:
        return "the lock is no longer held";
      case Errc::not_a_lock_file:
        return "not a lock file";
      case Errc::aliased_session:
        return "the session file has more than one name";
      case Errc::unsupported_file_system:
        return "the file system cannot arbitrate locks";
      case Errc::invalid_argument:
        return "invalid argument";
      case Errc::invalid_record:
        return "not one JSON value on one line";
      case Errc::torn_transcript:
        return "the transcript ends in an incomplete line";
      case Errc::replaced_session:
        return "the session file has been replaced";
    }
    return fmt::format("unknown error {}", value);
  }
};

/// As the messages of programs with such locks have it: "pid=41237 alive".
std::string holder_words(const Inspection& holder) {
  if (holder.basis == Basis::unreadable) {
    return fmt::format("held by an unreadable lock ({})", unreadable_words(holder));
  }
  const auto named = named_pid(holder);
  const std::string pid = named ? fmt::format("pid={} ", *named) : "";
  if (const auto words = inherited_words(holder); !words.empty()) {
    return fmt::format("{}ended, {},", pid, words);
  }
  return pid + std::string{holder.owner == OwnerState::none ? "no usable pid" : to_string(holder.owner)};
}

std::string contention_message(const Error& error, const Inspection& holder) {
  // Whatever ended the wait, the caller finds the session locked. A gate is its own lock file, and has no session.
  const bool is_gate = !holder.lock_path.empty() && holder.session_path == holder.lock_path;
  std::string message = is_gate ? "gate locked" : make_error_code(Errc::locked).message();
  if (!error.detail.empty()) {
    message += fmt::format(" ({})", error.detail);
  }
  message += ": " + holder_words(holder);
  if (const auto age = holder.age ? holder.age : holder.file_age) {
    message += " age=" + format_age(*age);
  }
  if (holder.record.label) {
    message += " label=" + quoted_text(*holder.record.label);
  }
  const std::filesystem::path& lock_path = holder.lock_path.empty() ? error.path : holder.lock_path;
  if (!lock_path.empty()) {
    message += " " + printable_text(lock_path.native());
  }
  return message;
}

/// Never destroyed: codes may still be compared at exit. Made by the compiler, in no memory that could be missing when
/// it is first asked for, and by no thread that a forked child could lack.
union LastingCategory {
  constexpr LastingCategory() : category() {}
  ~LastingCategory() {}  // NOLINT(modernize-use-equals-default): a default one would be deleted
  LastingCategory(const LastingCategory&) = delete;
  LastingCategory& operator=(const LastingCategory&) = delete;
  ErrorCategory category;
};
constinit LastingCategory g_category;

}  // namespace

const std::error_category& error_category() noexcept {
  return g_category.category;
}

std::error_code make_error_code(Errc code) noexcept {
  return {static_cast<int>(code), error_category()};
}

std::string Error::message() const {
  if (holder && (code == Errc::locked || code == Errc::timed_out)) {
    return contention_message(*this, *holder);
  }
  std::string message = operation.empty() ? code.message() : fmt::format("{}: {}", operation, code.message());
  if (!path.empty()) {
    message += ": " + printable_text(path.native());
  }
  if (!detail.empty()) {
    message += fmt::format(" ({})", detail);
  }
  return message;
}

LockError::LockError(Error error) : std::system_error(error.code) {
  std::string message = error.message();
  told_ = std::make_shared<const Told>(Told{std::move(error), std::move(message)});
}

LockError::~LockError() = default;

const char* LockError::what() const noexcept {
  return told_->message.c_str();
}

}  // namespace sessionlock
