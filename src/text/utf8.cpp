#include "text/utf8.hpp"

#include <simdjson.h>

namespace sessionlock {
namespace {

/// simdjson keeps what it uses in objects that are made at the first use and destroyed at exit. Made first of all, they
/// outlive every static object of a program, whose destructor may still want to write under a lock.
[[gnu::constructor(101)]] void make_tables_first() {
  (void)is_utf8("");
}

}  // namespace

bool is_utf8(std::string_view text) {
  return simdjson::validate_utf8(text.data(), text.size());
}

}  // namespace sessionlock
