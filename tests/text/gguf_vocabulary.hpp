#pragma once
// GGUF files that hold a vocabulary, and tensors where they are given.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <mole/core/scalar.hpp>

#include "io/folder.hpp"

namespace text_test {

template <class T>
std::string bytes_of(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}
inline std::string text_bytes(const std::string& value) {
  return bytes_of(std::uint64_t{value.size()}) + value;
}

/// A tensor, its extents as GGUF has them: the fastest first.
struct GgufFloats {
  std::string name;
  std::vector<std::uint64_t> extents;
  std::vector<float> values;  ///< of F32 and F16
  std::uint32_t type = 0;     ///< ggml's number of it
  std::string bytes = {};     ///< as stored, of another type
};

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
  void real(const std::string& key, float value) { add(key, bytes_of(std::uint32_t{6}) + bytes_of(value)); }
  void write(const std::filesystem::path& path, const std::vector<GgufFloats>& tensors = {}) const {
    constexpr std::size_t alignment = 32;
    const auto pad = [](std::string& bytes) {
      bytes.resize((bytes.size() + alignment - 1) / alignment * alignment);
    };
    std::string infos, data;
    for (const auto& tensor : tensors) {
      infos += text_bytes(tensor.name) + bytes_of(static_cast<std::uint32_t>(tensor.extents.size()));
      for (const auto extent : tensor.extents) infos += bytes_of(extent);
      infos += bytes_of(tensor.type) + bytes_of(std::uint64_t{data.size()});
      data += tensor.bytes;
      for (const float value : tensor.values)
        data += tensor.type == 1 ? bytes_of(mole::half(value)) : bytes_of(value);
      pad(data);
    }
    std::string file = "GGUF" + bytes_of(std::uint32_t{3}) + bytes_of(std::uint64_t{tensors.size()}) +
                       bytes_of(count) + entries + infos;
    pad(file);
    io_test::write_text(path, file + data + std::string(64, '\0'));
  }

 private:
  void add(const std::string& key, const std::string& value) {
    entries += text_bytes(key) + value;
    ++count;
  }
};

}  // namespace text_test
