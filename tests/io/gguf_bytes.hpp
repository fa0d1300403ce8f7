#pragma once
// Small GGUF files, part by part.

#include <cstdint>
#include <string>
#include <vector>

namespace io_test {

template <class T>
std::string gguf_raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}
inline std::string gguf_text(const std::string& value) {
  return gguf_raw(std::uint64_t{value.size()}) + value;
}

/// What makes up a small file, each part to be spoilt.
struct GgufParts {
  std::uint32_t version = 3;
  std::vector<std::string> entries{
      gguf_text("general.alignment") + gguf_raw(std::uint32_t{4}) + gguf_raw(std::uint32_t{32}),
      gguf_text("name") + gguf_raw(std::uint32_t{8}) + gguf_text("tiny"),
      gguf_text("list") + gguf_raw(std::uint32_t{9}) + gguf_raw(std::uint32_t{5}) +
          gguf_raw(std::uint64_t{2}) + gguf_raw(std::int32_t{7}) + gguf_raw(std::int32_t{-8})};
  std::string name = "a";
  std::vector<std::uint64_t> extents{3, 2};
  std::uint32_t type = 0;
  std::uint64_t offset = 0;
  std::string data = std::string(24, '\0');

  std::string bytes() const {
    std::string out =
        "GGUF" + gguf_raw(version) + gguf_raw(std::uint64_t{1}) + gguf_raw(std::uint64_t{entries.size()});
    for (const auto& entry : entries) out += entry;
    out += gguf_text(name) + gguf_raw(static_cast<std::uint32_t>(extents.size()));
    for (const auto extent : extents) out += gguf_raw(extent);
    out += gguf_raw(type) + gguf_raw(offset);
    out.resize((out.size() + 31) / 32 * 32);
    return out + data;
  }
};

}  // namespace io_test
