// Runs a fuzz target on files, as a test: the seeds, and whatever was found once. Usage: replay FOLDER...
// Folders that are not there count as empty, but all of them must not be. Needs no fuzzer, and any compiler does.

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "target.hpp"

namespace {

std::vector<std::filesystem::path> files_in(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  if (std::filesystem::is_directory(folder)) {
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::string content_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void run(const std::string& content) {
  (void)LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(content.data()), content.size());
}

}  // namespace

int main(int argc, char** argv) {
  int count = 0;
  run({});
  for (int i = 1; i < argc; ++i) {
    for (const auto& path : files_in(argv[i])) {
      // Before it is run, so that a crash is under its name.
      (void)std::fprintf(stderr, "%s\n", path.c_str());
      const std::string content = content_of(path);
      run(content);
      // Whatever is good must be good cut off anywhere, too.
      for (std::size_t size = content.size(); size-- > 0 && content.size() <= 1024;) {
        run(content.substr(0, size));
      }
      ++count;
    }
  }
  std::printf("replayed %d files\n", count);
  return count > 0 ? 0 : 1;
}
