#pragma once
// GGUF files as parts that need not fit together, for the mutator and the seeds.

#include <cstdint>
#include <string>
#include <vector>

namespace mole_fuzz {

/// The bytes of a number or of a text with its length, as they stand in a file.
template <class T>
std::string raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}
std::string raw_text(const std::string& text);

/// A key with its value: one, or of a list (type 9) each one, as bytes.
struct GgufEntry {
  std::string key;
  std::uint32_t type = 8, inner = 0;  ///< inner: of a list's values
  std::vector<std::string> values;
};

struct GgufPart {
  std::string name;
  std::vector<std::uint64_t> extents;  ///< the fastest first
  std::uint32_t type = 0;
  std::string data;
};

struct GgufTree {
  std::uint32_t version = 3;
  std::vector<GgufEntry> entries;
  std::vector<GgufPart> tensors;

  void text(const std::string& key, const std::string& value) {
    entries.push_back({key, 8, 0, {raw_text(value)}});
  }
  void number(const std::string& key, std::uint32_t value) { entries.push_back({key, 4, 0, {raw(value)}}); }
  void real(const std::string& key, float value) { entries.push_back({key, 6, 0, {raw(value)}}); }
  void flag(const std::string& key, bool value) {
    entries.push_back({key, 7, 0, {raw(static_cast<std::uint8_t>(value))}});
  }
  void texts(const std::string& key, const std::vector<std::string>& values);
  template <class T>
  void numbers(const std::string& key, std::uint32_t type, const std::vector<T>& values) {
    entries.push_back({key, 9, type, {}});
    for (const T value : values) entries.back().values.push_back(raw(value));
  }
};

/// Whether the bytes were understood, which takes less than the library's reader asks for.
bool parse(const std::string& bytes, GgufTree& tree);

/// The file, its tensors one after another at multiples of 32 bytes. With `fit` each has as many bytes as its type and
/// extents take, where these make sense.
std::string printed(GgufTree tree, bool fit);

}  // namespace mole_fuzz
