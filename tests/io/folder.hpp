#pragma once
// What the io suites share: a folder of their own, raw files, the text of an error, goldens.

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <mole/core/error.hpp>

namespace io_test {

/// A new folder, removed with all it holds.
class Folder {
 public:
  Folder() {
    static int counter = 0;
    path = std::filesystem::temp_directory_path() /
           ("mole-io-test-" + std::to_string(::getpid()) + "-" + std::to_string(counter++));
    std::filesystem::create_directories(path);
  }
  Folder(const Folder&) = delete;
  ~Folder() { std::filesystem::remove_all(path); }

  std::filesystem::path operator/(const std::string& name) const { return path / name; }
  std::size_t count() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(path), {}));
  }

  std::filesystem::path path;
};

inline void write_text(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// The bytes of a safetensors file with this header and that many bytes of data.
inline std::string safetensors_bytes(const std::string& header, std::size_t data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i)
    bytes += static_cast<char>(static_cast<std::uint64_t>(header.size()) >> (8 * i) & 255);
  return bytes + header + std::string(data, '\0');
}

/// The message of the E that f throws; empty if it throws none.
template <class E = mole::FormatError, class F>
std::string error_of(F f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return "";
}

inline bool mentions(const std::string& text, const std::vector<std::string>& parts) {
  for (const auto& part : parts)
    if (text.find(part) == text.npos) return false;
  return !text.empty();
}

inline std::filesystem::path golden(const std::string& name) {
  return std::filesystem::path(MOLE_TEST_DATA) / "golden" / name;
}

/// A file or folder of another program on which an earlier version failed: tests/data/cases/README.md.
inline std::filesystem::path case_of(const std::string& name) {
  return std::filesystem::path(MOLE_TEST_DATA) / "cases" / name;
}

}  // namespace io_test
