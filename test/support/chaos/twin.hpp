#pragma once

/// \file
/// A program with two copies of the library in it.

#include <cstddef>
#include <vector>

#include "chaos/writer.hpp"
#include "second_copy.hpp"

namespace sessionlock::test::chaos {

/// While one thread uses the sessions through the one copy, another does so through the other.
class Twin : public Writer {
 public:
  explicit Twin(const Stage& stage);

 protected:
  void act() override;
  /// The other thread's descriptors come and go.
  void look_for_leaks() override {}

 private:
  /// For the other thread: has no random numbers.
  void use_second(std::size_t number);

  const SecondCopy& copy_;
};

}  // namespace sessionlock::test::chaos
