#pragma once
// JSON files, read with suspicion and written whole.

#include <cstddef>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <mole/core/error.hpp>
#include <mole/io/atomic_file.hpp>
#include <mole/io/mapped_file.hpp>

namespace mole {

/// The most bytes of JSON that is read, as of a safetensors header.
inline constexpr std::size_t max_json_bytes = 100'000'000;
/// The deepest nesting of JSON that is read.
inline constexpr int max_json_depth = 100;

namespace detail {

// What nlohmann's parser would accept or what would cost it memory: NUL counts as the end of its input.
inline void check_json_text(std::string_view text, const std::string& source) {
  int depth = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    MOLE_CHECK_FORMAT(c != '\0', source, "malformed JSON: a NUL at byte", i);
    if (c == '"') quoted = !quoted;
    if (quoted && c == '\\') ++i;
    if (quoted) continue;
    if (c == '[' || c == '{') ++depth;
    if (c == ']' || c == '}') --depth;
    MOLE_CHECK_FORMAT(depth <= max_json_depth, source, "JSON nested deeper than", max_json_depth, "at byte",
                      i);
  }
}

/// Parses text; `source` begins every message. Json is nlohmann::json, or ordered_json to keep the file's
/// order.
template <class Json>
Json parse_json(std::string_view text, const std::string& source) {
  check_json_text(text, source);
  std::vector<std::set<std::string>> keys;
  const auto watch = [&](int, typename Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key)
      MOLE_CHECK_FORMAT(keys.back().insert(value.template get<std::string>()).second, source,
                        "JSON has two values for the key", value);
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), watch);
  } catch (const typename Json::parse_error& error) {
    throw FormatError(
        message(source, "malformed JSON at byte", error.byte, std::string("(") + error.what() + ")"));
  } catch (const typename Json::exception& error) {
    throw FormatError(message(source, "malformed JSON", std::string("(") + error.what() + ")"));
  }
}

template <class Json>
Json read_json_as(const std::filesystem::path& path) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  const std::string source = message(path) + ":";
  MOLE_CHECK_FORMAT(bytes.size() <= max_json_bytes, source, "JSON of", bytes.size(), "bytes; at most",
                    max_json_bytes, "are read");
  return parse_json<Json>({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, source);
}

template <class Json>
std::string json_text(const Json& json, int indent = -1) {
  try {
    return json.dump(indent);
  } catch (const typename Json::exception& error) {
    throw Error(message("this cannot be written as JSON:", error.what()));
  }
}

}  // namespace detail

/// The JSON of a file. Throws FormatError, with the file and the byte or key, for malformed JSON, nesting
/// deeper than max_json_depth, a key given twice or more than max_json_bytes; Error where the file cannot be
/// read.
inline nlohmann::json read_json(const std::filesystem::path& path) {
  return detail::read_json_as<nlohmann::json>(path);
}

/// Writes indented JSON with sorted keys, atomically. Throws Error for text that is not UTF-8 or where the
/// file cannot be written.
inline void write_json(const std::filesystem::path& path, const nlohmann::json& json) {
  write_atomically(path, detail::json_text(json, 2) + "\n");
}

}  // namespace mole
