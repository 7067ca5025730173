#pragma once

/// \file
/// Lets a test see each system call of the library before it is made, fail it, shorten it, or do something first.

#include <functional>
#include <string_view>
#include <utility>

#include "system/system.hpp"

namespace sessionlock::test {

/// What to answer before a call: an errno to fail with, or 0 to make the call.
using Answer = std::function<int(const sys::CallInfo&)>;

/// An interceptor that asks a function; installed for its lifetime. One at a time. The function may be called from
/// several threads at once.
class Script : public sys::Interceptor {
 public:
  explicit Script(Answer answer) : answer_(std::move(answer)) { sys::set_interceptor(this); }
  ~Script() override { sys::set_interceptor(nullptr); }
  Script(const Script&) = delete;
  Script& operator=(const Script&) = delete;
  int before(const sys::CallInfo& info) override { return answer_(info); }

 private:
  Answer answer_;
};

/// Fails one call, always in the same way.
inline Answer failing(sys::Call call, int error) {
  return [=](const sys::CallInfo& info) { return info.call == call ? error : 0; };
}

/// Whether a call is about a path that ends so.
inline bool is_call_on(const sys::CallInfo& info, sys::Call call, std::string_view path_end) {
  return info.call == call && info.path != nullptr && std::string_view(info.path).ends_with(path_end);
}

}  // namespace sessionlock::test
