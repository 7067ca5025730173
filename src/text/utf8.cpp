#include "text/utf8.hpp"

#include <simdjson.h>

#include "text/simdjson_use.hpp"

namespace sessionlock {

bool is_utf8(std::string_view text) {
  const SimdjsonUse use;
  return simdjson::validate_utf8(text.data(), text.size());
}

}  // namespace sessionlock
