#pragma once
// JSON files, read with suspicion and written whole.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/core/shape.hpp>
#include <mole/io/atomic_file.hpp>
#include <mole/io/mapped_file.hpp>

namespace mole {

/// A JSON value. Objects keep the order of their fields: the first pattern that fits counts.
using Json = nlohmann::ordered_json;

/// The most bytes of a JSON file that says much of much, such as an index of tensors; as of a safetensors
/// header.
inline constexpr std::size_t max_json_bytes = 100'000'000;
/// The most bytes of a configuration.
inline constexpr std::size_t max_config_bytes = 1'000'000;
/// The deepest nesting of JSON that is read.
inline constexpr int max_json_depth = 100;
/// The most values, each of some 100 bytes in memory.
inline constexpr std::size_t max_json_values = 1'000'000;

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

// Json's constructors, look-ups and comparisons are templates, which a compiler makes anew for each type and for each
// length of a literal. The library reads and writes values through the few functions below instead.

/// A value of a text, a truth or a number.
inline Json json_value(std::string text) { return Json(std::move(text)); }
inline Json json_value(const char* text) { return json_value(std::string(text)); }
inline Json json_value(bool truth) { return Json(truth); }
inline Json json_value(std::int64_t number) { return Json(number); }
inline Json json_value(std::uint64_t number) { return Json(number); }
inline Json json_value(double number) { return Json(number); }

/// A list without values.
inline Json json_list() { return Json(Json::value_t::array); }
/// Gives a list one more value, its last.
inline void add_value(Json& list, Json value) { list.push_back(std::move(value)); }

/// A list of texts or of numbers.
inline Json json_value(const std::vector<std::string>& texts) {
  auto list = json_list();
  for (const auto& text : texts) add_value(list, json_value(text));
  return list;
}
inline Json json_value(const std::vector<Index>& numbers) {
  auto list = json_list();
  for (const Index number : numbers) add_value(list, json_value(number));
  return list;
}

/// A field of an object that is written.
struct JsonField {
  JsonField(const char* of, const char* text) : name(of), value(json_value(text)) {}
  JsonField(const char* of, const std::string& text) : name(of), value(json_value(text)) {}
  JsonField(const char* of, bool truth) : name(of), value(json_value(truth)) {}
  JsonField(const char* of, Index number) : name(of), value(json_value(number)) {}
  JsonField(const char* of, double number) : name(of), value(json_value(number)) {}
  JsonField(const char* of, const std::vector<std::string>& texts) : name(of), value(json_value(texts)) {}
  JsonField(const char* of, const std::vector<Index>& numbers) : name(of), value(json_value(numbers)) {}
  // A template, so that no other argument is tried as a Json.
  template <std::same_as<Json> J>
  JsonField(const char* of, J any) : name(of), value(std::move(any)) {}

  const char* name;
  Json value;
};

/// The fields of an object, in order.
inline const Json::object_t& fields_of(const Json& object) { return object.get_ref<const Json::object_t&>(); }

/// The values of a list.
inline const Json::array_t& values_of(const Json& list) { return list.get_ref<const Json::array_t&>(); }

/// A field of an object; null where it is not there, or where the value is no object.
inline const Json* find_field(const Json& object, std::string_view name) {
  if (!object.is_object()) return nullptr;
  for (const auto& [key, value] : fields_of(object))
    if (key == name) return &value;
  return nullptr;
}

/// The same; null where JSON's null stands there too.
inline const Json* given_field(const Json& object, std::string_view name) {
  const auto* const found = find_field(object, name);
  return found && !found->is_null() ? found : nullptr;
}

/// Gives an object's field a value; a new one comes last.
inline void set_field(Json& object, const std::string& name, Json value) {
  object.get_ref<Json::object_t&>()[name] = std::move(value);
}
inline void set_field(Json& object, JsonField field) {
  set_field(object, field.name, std::move(field.value));
}

/// Gives an object a field, unless it has one of that name.
inline void add_field(Json& object, const std::string& name, Json value) {
  object.get_ref<Json::object_t&>().emplace(name, std::move(value));
}

/// An object with these fields, of which no two have one name.
inline Json json_object(std::initializer_list<JsonField> fields = {}) {
  Json object(Json::value_t::object);
  for (const auto& field : fields) add_field(object, field.name, field.value);
  return object;
}

/// The text of a value that is one.
inline std::string text_of(const Json& value) { return value.get_ref<const std::string&>(); }

/// A handler of nlohmann's parser. Every handler is one through this base, so that the parser, most of what
/// JSON costs to compile, is compiled once.
using JsonHandler = nlohmann::json_sax<Json>;

inline void parse_json(std::string_view text, JsonHandler& handler) {
  Json::sax_parse(text.data(), text.data() + text.size(), &handler);
}

// Builds the value as it is parsed, in time linear in the text: the parser's own ways to see keys twice copy
// what they have at every object's end, and its ordered objects look through all keys for each new one.
class JsonBuilder : public JsonHandler {
 public:
  explicit JsonBuilder(const std::string& source) : source_(source) {}

  Json take() && { return std::move(root_); }

  bool null() override { return put(Json()); }
  bool boolean(bool value) override { return put(json_value(value)); }
  bool number_integer(std::int64_t value) override { return put(json_value(value)); }
  bool number_unsigned(std::uint64_t value) override { return put(json_value(value)); }
  bool number_float(double value, const std::string&) override { return put(json_value(value)); }
  bool string(std::string& value) override { return put(json_value(std::move(value))); }
  bool binary(Json::binary_t&) override { throw FormatError(message(source_, "JSON holds binary data")); }
  bool start_object(std::size_t) override {
    keys_.emplace_back();
    return open(json_object());
  }
  bool end_object() override {
    keys_.pop_back();
    return close();
  }
  bool start_array(std::size_t) override { return open(json_list()); }
  bool end_array() override { return close(); }
  bool key(std::string& key) override {
    MOLE_CHECK_FORMAT(keys_.back().insert(key).second, source_, "JSON has two values for the key",
                      '"' + shortened(key, 100) + '"');
    key_ = std::move(key);
    return true;
  }
  bool parse_error(std::size_t byte, const std::string&, const Json::exception& error) override {
    throw FormatError(
        message(source_, "malformed JSON at byte", byte, "(" + shortened(error.what(), 300) + ")"));
  }

 private:
  Json& add(Json value) {
    MOLE_CHECK_FORMAT(++values_ <= max_json_values, source_, "JSON has more than", max_json_values, "values");
    if (open_.empty()) return root_ = std::move(value);
    Json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return parent.back();
    }
    // The object's own emplace() compares with every key; that there is no such key is known.
    Json::object_t::Container& pairs = parent.get_ref<Json::object_t&>();
    return pairs.emplace_back(std::move(key_), std::move(value)).second;
  }
  bool put(Json value) {
    add(std::move(value));
    return true;
  }
  bool open(Json value) {
    open_.push_back(&add(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  const std::string& source_;
  Json root_;
  std::string key_;
  // Nothing is added to a value while one inside it is open, so that none moves.
  std::vector<Json*> open_;
  std::vector<std::set<std::string>> keys_;
  std::size_t values_ = 0;
};

/// The value of a text, with the objects' fields in the text's order; `source` begins every message.
inline Json parse_json(std::string_view text, const std::string& source) {
  check_json_text(text, source);
  JsonBuilder builder(source);
  parse_json(text, builder);
  return std::move(builder).take();
}

/// The text of a JSON file. Throws FormatError where Git LFS has only its pointer, or for more than `most` bytes.
inline std::string_view json_in(const MappedFile& file, const std::string& source, std::size_t most) {
  const auto bytes = file.bytes();
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  check_no_lfs_pointer(text, source);
  MOLE_CHECK_FORMAT(text.size() <= most, source, "JSON of", text.size(), "bytes; at most", most, "are read");
  return text;
}

// A value as a message shows it.
inline std::string shown_json(const Json& value) { return shortened(value.dump(), 200); }

/// Whether a value is this text. Json's own comparison makes a value of the text, which may fail, in a function that
/// must not throw.
inline bool is_text(const Json& value, std::string_view text) {
  return value.is_string() && value.get_ref<const std::string&>() == text;
}

/// Whether two values are the same, of which the second is neither a list nor an object. Json's own comparison brings
/// those of all that it can be converted to.
inline bool is_scalar(const Json& value, const Json& scalar) {
  if (scalar.is_number()) return value.is_number() && value.get<double>() == scalar.get<double>();
  if (scalar.is_string()) return is_text(value, scalar.get_ref<const std::string&>());
  if (scalar.is_boolean()) return value.is_boolean() && value.get<bool>() == scalar.get<bool>();
  return scalar.is_null() && value.is_null();
}

inline std::string json_text(const Json& json, int indent = -1) {
  try {
    return json.dump(indent);
  } catch (const Json::exception& error) {
    throw Error(message("this cannot be written as JSON:", error.what()));
  }
}

}  // namespace detail

/// The JSON of a file, with the objects' fields in the file's order. Throws FormatError, with the file and the
/// byte or key, for malformed JSON, nesting deeper than max_json_depth, a key given twice, more than `most`
/// bytes or max_json_values; Error where the file cannot be read.
inline Json read_json(const std::filesystem::path& path, std::size_t most = max_config_bytes) {
  const detail::MappedFile file(path);
  const std::string source = message(path) + ":";
  const auto text = detail::json_in(file, source, most);
  return detail::parse_json(text, source);
}

/// The same of a file that must be an object, as configurations are.
inline Json read_json_object(const std::filesystem::path& path) {
  auto json = read_json(path);
  MOLE_CHECK_FORMAT(json.is_object(), message(path) + ":", "expected a JSON object");
  return json;
}

/// Writes indented JSON, atomically. Throws Error for text that is not UTF-8 or where the
/// file cannot be written.
inline void write_json(const std::filesystem::path& path, const Json& json) {
  write_atomically(path, detail::json_text(json, 2) + "\n");
}

}  // namespace mole
