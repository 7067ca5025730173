#include "record/witness.hpp"

#include <charconv>
#include <system_error>

namespace sessionlock {
namespace {

constexpr std::string_view k_ofd = "ofd:";
constexpr std::string_view k_ofd2 = "ofd2:";

/// Takes a number off the beginning of a text; none: there is none.
std::optional<std::uint64_t> take_number(std::string_view& text) {
  std::uint64_t number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{}) {
    return std::nullopt;
  }
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return number;
}

}  // namespace

std::string format_witness(const DeclaredWitness& witness) {
  std::string text(witness.form == WitnessForm::ofd2 ? k_ofd2 : k_ofd);
  return text + std::to_string(witness.file.device) + ":" + std::to_string(witness.file.inode);
}

std::optional<DeclaredWitness> parse_witness(std::string_view text) {
  DeclaredWitness witness;
  if (text.starts_with(k_ofd2)) {
    witness.form = WitnessForm::ofd2;
    text.remove_prefix(k_ofd2.size());
  } else if (text.starts_with(k_ofd)) {
    text.remove_prefix(k_ofd.size());
  } else {
    return std::nullopt;
  }
  const auto device = take_number(text);
  if (!device || !text.starts_with(':')) {
    return std::nullopt;
  }
  text.remove_prefix(1);
  const auto inode = take_number(text);
  if (!inode || !text.empty()) {
    return std::nullopt;
  }
  witness.file = {*device, *inode};
  return witness;
}

}  // namespace sessionlock
