#include "sessions/appended_file.hpp"

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include "process.hpp"
#include "protocol/directory.hpp"
#include "script.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;

namespace {

constexpr std::uint64_t k_mib = std::uint64_t{1} << 20U;

/// Opens a file in a directory of the test's.
AppendedFile open_file(const fs::path& directory, const std::string& name) {
  struct stat status {};
  return value_or_throw(
      AppendedFile::open(*value_or_throw(open_directory(directory.native())), name, S_IRUSR | S_IWUSR, status));
}

/// Makes a file of this size with one byte at each of these places, and holes between.
void write_sparse(const fs::path& path, std::uint64_t size, const std::vector<std::uint64_t>& places) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  REQUIRE(::ftruncate(fd, static_cast<off_t>(size)) == 0);
  for (const auto place : places) {
    REQUIRE(::pwrite(fd, "x", 1, static_cast<off_t>(place)) == 1);
  }
  ::close(fd);
}

}  // namespace

TEST_CASE("data is found in both directions, and holes are stepped over") {
  std::string why_not;
  const auto memory = TmpfsMount::mount("size=1m", &why_not);
  if (!memory) {
    skip_aloud(why_not);
    return;
  }
  constexpr std::uint64_t size = 3000 * k_mib;
  write_sparse(*memory / "file", size, {0, 1000 * k_mib});
  const AppendedFile file = open_file(memory->path(), "file");
  const std::uint64_t page = file.next_data(1, size) == 1 ? file.data_end_before(900 * k_mib) : 0;
  REQUIRE(page > 0);  // as much as a file system stores at once
  CHECK(page <= 2 * k_mib);
  CHECK(file.next_data(page, size) == 1000 * k_mib);
  CHECK(file.next_data(page, 10 * k_mib) == 10 * k_mib);
  CHECK(file.next_data(2000 * k_mib, size) == size);
  CHECK(file.data_end_before(size) == 1000 * k_mib + page);
  CHECK(file.data_end_before(1000 * k_mib + 1) == 1000 * k_mib + 1);
  CHECK(file.data_end_before(1000 * k_mib) == page);
}

TEST_CASE("where the file system does not say, all is data") {
  TemporaryDirectory directory;
  write_sparse(directory / "file", k_mib, {});
  const AppendedFile file = open_file(directory.path(), "file");
  for (const int error : {EINVAL, EIO, EOPNOTSUPP}) {
    const Script script(failing(sys::Call::lseek, error));
    CHECK(file.next_data(5, k_mib) == 5);
    CHECK(file.data_end_before(k_mib) == k_mib);
  }
}

TEST_CASE("two parts are equal if their bytes are, wherever there are holes") {
  TemporaryDirectory directory;
  constexpr std::uint64_t size = 3 * k_mib + 5;
  write_sparse(directory / "sparse", size, {k_mib + 5, 2 * k_mib});
  std::string text(size, '\0');
  text[k_mib + 5] = text[2 * k_mib] = 'x';
  write_text(directory / "dense", text);
  const AppendedFile sparse = open_file(directory.path(), "sparse");
  const AppendedFile dense = open_file(directory.path(), "dense");
  const auto equal = [](const AppendedFile& a, std::uint64_t start, std::uint64_t end, const AppendedFile& b,
                        std::uint64_t other) { return value_or_throw(a.equals(start, end, b, other)); };
  CHECK(equal(sparse, 0, size, dense, 0));
  CHECK(equal(dense, 0, size, sparse, 0));
  CHECK(equal(sparse, 0, 0, dense, 7));
  CHECK_FALSE(equal(sparse, 0, size - 1, dense, 1));
  CHECK(equal(sparse, 10, k_mib + 5, dense, 0));
  CHECK_FALSE(equal(sparse, 10, k_mib + 6, dense, 0));
}
