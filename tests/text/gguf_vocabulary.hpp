#pragma once
// GGUF files that hold a vocabulary and nothing else.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "io/folder.hpp"

namespace text_test {

template <class T>
std::string bytes_of(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}
inline std::string text_bytes(const std::string& value) {
  return bytes_of(std::uint64_t{value.size()}) + value;
}

/// The entries of a file's metadata.
struct GgufVocabulary {
  std::uint64_t count = 0;
  std::string entries;

  void text(const std::string& key, const std::string& value) {
    add(key, bytes_of(std::uint32_t{8}) + text_bytes(value));
  }
  void flag(const std::string& key, bool value) {
    add(key, bytes_of(std::uint32_t{7}) + bytes_of(static_cast<std::uint8_t>(value)));
  }
  void number(const std::string& key, std::uint32_t value) {
    add(key, bytes_of(std::uint32_t{4}) + bytes_of(value));
  }
  void texts(const std::string& key, const std::vector<std::string>& values) {
    std::string list =
        bytes_of(std::uint32_t{9}) + bytes_of(std::uint32_t{8}) + bytes_of(std::uint64_t{values.size()});
    for (const auto& value : values) list += text_bytes(value);
    add(key, list);
  }
  void types(const std::string& key, const std::vector<std::int32_t>& values) {
    std::string list =
        bytes_of(std::uint32_t{9}) + bytes_of(std::uint32_t{5}) + bytes_of(std::uint64_t{values.size()});
    for (const auto value : values) list += bytes_of(value);
    add(key, list);
  }
  void scores(const std::string& key, const std::vector<float>& values) {
    std::string list =
        bytes_of(std::uint32_t{9}) + bytes_of(std::uint32_t{6}) + bytes_of(std::uint64_t{values.size()});
    for (const auto value : values) list += bytes_of(value);
    add(key, list);
  }
  void write(const std::filesystem::path& path) const {
    io_test::write_text(path, "GGUF" + bytes_of(std::uint32_t{3}) + bytes_of(std::uint64_t{0}) +
                                  bytes_of(count) + entries + std::string(64, '\0'));
  }

 private:
  void add(const std::string& key, const std::string& value) {
    entries += text_bytes(key) + value;
    ++count;
  }
};

}  // namespace text_test
