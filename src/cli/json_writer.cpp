#include "cli/json_writer.hpp"

#include <string>
#include <utility>

#include "text/json_text.hpp"

namespace sessionlock::cli {

void JsonWriter::start_line() {
  if (layout_ == Layout::one_line) {
    out_ += out_.ends_with(',') ? " " : "";
    return;
  }
  out_ += '\n';
  out_.append(2 * depth_, ' ');
}

void JsonWriter::start_value() {
  if (std::exchange(after_key_, false) || depth_ == 0) {
    return;
  }
  if (!std::exchange(empty_, false)) {
    out_ += ',';
  }
  start_line();
}

void JsonWriter::begin(char bracket) {
  start_value();
  out_ += bracket;
  ++depth_;
  empty_ = true;
}

void JsonWriter::end(char bracket) {
  --depth_;
  if (!std::exchange(empty_, false)) {
    start_line();
  }
  out_ += bracket;
}

void JsonWriter::key(std::string_view name) {
  text(name);
  out_ += ": ";
  after_key_ = true;
}

void JsonWriter::text(std::string_view value) {
  start_value();
  json::append_string(out_, value);
}

void JsonWriter::number(std::int64_t value) {
  start_value();
  out_ += std::to_string(value);
}

void JsonWriter::boolean(bool value) {
  start_value();
  out_ += value ? "true" : "false";
}

void JsonWriter::null() {
  start_value();
  out_ += "null";
}

void JsonWriter::member(std::string_view name, const std::optional<std::string>& value) {
  key(name);
  if (value) {
    text(*value);
  } else {
    null();
  }
}

void JsonWriter::member(std::string_view name, std::optional<std::int64_t> value) {
  key(name);
  if (value) {
    number(*value);
  } else {
    null();
  }
}

std::string JsonWriter::finish() {
  out_ += '\n';
  return std::exchange(out_, {});
}

}  // namespace sessionlock::cli
