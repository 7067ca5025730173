#pragma once

/// \file
/// Writes JSON documents for other programs: indented by two spaces or on one line, always valid UTF-8.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace sessionlock::cli {

/// Builds one JSON document from the outside in. The caller keeps to the grammar: inside an object a `key` before every
/// value, an `end_…` for every `begin_…`.
class JsonWriter {
 public:
  enum class Layout { indented, one_line };
  explicit JsonWriter(Layout layout = Layout::indented) : layout_(layout) {}

  void begin_object() { begin('{'); }
  void end_object() { end('}'); }
  void begin_array() { begin('['); }
  void end_array() { end(']'); }
  void key(std::string_view name);

  void text(std::string_view value);
  void number(std::int64_t value);
  void boolean(bool value);
  void null();

  /// A member of an object; `null` where there is no value.
  void member(std::string_view name, const std::optional<std::string>& value);
  void member(std::string_view name, std::optional<std::int64_t> value);
  void member(std::string_view name, std::same_as<bool> auto value) {
    key(name);
    boolean(value);
  }

  /// The document, with one trailing newline.
  [[nodiscard]] std::string finish();

 private:
  void begin(char bracket);
  void end(char bracket);
  void start_value();
  void start_line();

  Layout layout_;
  std::string out_;
  std::size_t depth_{0};
  /// Nothing stands in the innermost object or array yet.
  bool empty_{true};
  bool after_key_{false};
};

}  // namespace sessionlock::cli
