#pragma once
// A folder of a test's own, and what files hold.

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <unistd.h>

namespace common_test {

/// A new folder, removed with all it holds. Its name has a blank and a quote: users have such folders, and
/// both a shell and gnuplot trip over them.
struct Folder {
  std::filesystem::path path = std::filesystem::temp_directory_path() / unique_name();
  Folder() { std::filesystem::create_directories(path); }
  Folder(const Folder&) = delete;
  ~Folder() { std::filesystem::remove_all(path); }

 private:
  static std::string unique_name() {
    static int counter = 0;
    return "mole numbers' " + std::to_string(getpid()) + "-" + std::to_string(counter++);
  }
};

inline std::string contents(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace common_test
