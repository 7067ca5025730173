#include "protocol/file_system_traits.hpp"

#include <cstdint>
#include <memory>

#include <doctest/doctest.h>

using namespace sessionlock;

TEST_CASE("a file system without a name here is told by its number") {
  CHECK(file_system_name(0xef53) == "ext4");
  CHECK(file_system_name(0x1234abcd) == "0x1234abcd");
  CHECK(is_local_file_system(0xef53));
  CHECK(!is_local_file_system(0x1234abcd));
}

TEST_CASE("of file systems that may be other kernels' too, what was found out is known for one mount only") {
  // Protects: `traits_of`. FUSE's have no id, and their device numbers are given out again.
  constexpr std::uint64_t k_fuse = 0x65735546;
  sys::FileSystem fuse;
  fuse.type = k_fuse;
  const auto first = traits_of(40, 7, fuse);
  CHECK(!first->local);
  CHECK(traits_of(40, 7, fuse) == first);
  CHECK(traits_of(40, 8, fuse) != first);
  CHECK(traits_of(40, 0, fuse) != traits_of(40, 0, fuse));
}

TEST_CASE("what was found out about file systems is forgotten when there are too many, and found out again") {
  sys::FileSystem file_system;
  file_system.type = 0xef53;
  const std::weak_ptr<FileSystemTraits> first = traits_of(0, 0, file_system);
  CHECK(traits_of(0, 0, file_system) == first.lock());
  std::size_t remembered = 0;
  for (std::uint64_t device = 1; !first.expired() && device < 100'000; ++device) {
    CHECK(traits_of(device, 0, file_system)->local);
    ++remembered;
  }
  CHECK(first.expired());
  CHECK(remembered > 100);
  CHECK(traits_of(0, 0, file_system)->local);
}
