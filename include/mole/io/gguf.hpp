#pragma once
// GGUF files, versions 2 and 3: metadata and tensors, read through a memory map with every claim checked.
//
//   "GGUF" | u32 version | u64 tensors | u64 entries | entries | descriptions of tensors | padding | data

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/core/shape.hpp>
#include <mole/io/gguf_blocks.hpp>
#include <mole/io/mapped_file.hpp>

namespace mole {

/// A value of the metadata: a flag, a number, a text, or a list of texts or numbers. Lists of lists are skipped and
/// read as an empty list.
using GgufValue =
    std::variant<bool, std::int64_t, double, std::string, std::vector<std::string>, std::vector<double>>;

/// Where a tensor lies.
struct GgufTensor {
  std::uint32_t type = 0;
  Shape shape;  ///< row-major: [d_out, d_in] of a matrix
  const std::byte* data = nullptr;
  Index bytes = 0;
};

namespace detail {

/// Reads on through a file's bytes; every step is checked against its end.
class GgufCursor {
 public:
  GgufCursor(std::span<const std::byte> bytes, const std::string& source) : bytes_(bytes), source_(source) {}

  std::size_t place() const { return at_; }
  std::size_t left() const { return bytes_.size() - at_; }

  template <class Stored>
  Stored number() {
    need(sizeof(Stored), 1);
    Stored value;
    std::memcpy(&value, bytes_.data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }
  std::string text() {
    const auto length = number<std::uint64_t>();
    need(length, 1);
    const auto* begin = reinterpret_cast<const char*>(bytes_.data() + at_);
    at_ += static_cast<std::size_t>(length);
    return {begin, static_cast<std::size_t>(length)};
  }
  /// Throws FormatError unless `count` things of at least `size` bytes are left.
  void need(std::uint64_t count, std::size_t size) const {
    MOLE_CHECK_FORMAT(count <= left() / size, source_, "the file is cut short: at byte", at_, count, "x",
                      size, "bytes are announced and", left(), "are left");
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& source_;
  std::size_t at_ = 0;
};

/// The decimal number that a 32-bit one was rounded from, as its shortest spelling has it: 1e-5, not 9.99999975e-06.
inline double decimal(float stored) {
  char text[40];
  double value = static_cast<double>(stored);
  if (!is_finite(stored)) return value;
  const auto end = std::to_chars(text, text + sizeof text, stored).ptr;
  std::from_chars(text, end, value);
  return value;
}

/// The numbers of GGUF's types of values.
enum class GgufKind : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, flag, text, list, u64, i64, f64 };

inline std::size_t least_bytes(GgufKind kind) {
  switch (kind) {
    case GgufKind::u8:
    case GgufKind::i8:
    case GgufKind::flag:
      return 1;
    case GgufKind::u16:
    case GgufKind::i16:
      return 2;
    case GgufKind::u32:
    case GgufKind::i32:
    case GgufKind::f32:
      return 4;
    case GgufKind::list:
      return 12;
    default:
      return 8;
  }
}

}  // namespace detail

/// A GGUF file, mapped. Opening checks all that describes it and touches no tensor.
class GgufFile {
 public:
  /// Throws Error where the file cannot be read; FormatError, naming the file and the key or tensor, for a file
  /// that is none, of another version, big-endian, cut short, one part of several, or whose tensors overlap or
  /// do not fit into it.
  explicit GgufFile(const std::filesystem::path& path)
      : path_(path), file_(path), source_(message(path) + ":") {
    const auto bytes = file_.bytes();
    detail::check_no_lfs_pointer({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, source_);
    MOLE_CHECK_FORMAT(bytes.size() >= 24 && std::memcmp(bytes.data(), "GGUF", 4) == 0, source_,
                      "this is no GGUF file");
    detail::GgufCursor in(bytes, source_);
    in.number<std::uint32_t>();
    const auto version = in.number<std::uint32_t>();
    MOLE_CHECK_FORMAT(version < 0x10000U, source_, "the file is big-endian, which is not read");
    MOLE_CHECK_FORMAT(version == 2 || version == 3, source_, "GGUF version", version,
                      "is not read: 2 and 3 are");
    const auto tensors = in.number<std::uint64_t>(), entries = in.number<std::uint64_t>();
    in.need(entries, 13);
    for (std::uint64_t i = 0; i < entries; ++i) {
      const auto key = in.text();
      auto value = read_value(in, key, kind_of(in.number<std::uint32_t>(), key), 0);
      MOLE_CHECK_FORMAT(values_.emplace(key, std::move(value)).second, source_, "the key", quote(key),
                        "is there twice");
    }
    in.need(tensors, 24);
    for (std::uint64_t i = 0; i < tensors; ++i) read_tensor(in);
    place_tensors(in.place());
    const Index parts = integer("split.count", 1, 0, 1'000'000);
    MOLE_CHECK_FORMAT(parts <= 1, source_, "this is one part of", parts,
                      "; join them by `llama-gguf-split --merge`");
  }

  const std::filesystem::path& path() const { return path_; }
  const std::map<std::string, GgufValue>& metadata() const { return values_; }
  const std::map<std::string, GgufTensor>& tensors() const { return tensors_; }
  bool contains(const std::string& tensor) const { return tensors_.contains(tensor); }
  bool has(const std::string& key) const { return values_.contains(key); }

  /// Throw FormatError, naming the key, where the value is of another kind or out of range.
  std::string text(const std::string& key, const std::string& otherwise) const {
    return value<std::string>(key, otherwise, "text");
  }
  bool flag(const std::string& key, bool otherwise) const {
    return value<bool>(key, otherwise, "true or false");
  }
  double number(const std::string& key, double otherwise) const {
    const auto found = values_.find(key);
    if (found == values_.end()) return otherwise;
    if (const auto* whole = std::get_if<std::int64_t>(&found->second)) return static_cast<double>(*whole);
    return value<double>(key, otherwise, "a number");
  }
  Index integer(const std::string& key, Index otherwise, Index least, Index most) const {
    const auto found = value<std::int64_t>(key, otherwise, "a whole number");
    MOLE_CHECK_FORMAT(!has(key) || (found >= least && found <= most), source_, key, "should be from", least,
                      "to", most, "and is", found);
    return static_cast<Index>(found);
  }
  std::vector<std::string> texts(const std::string& key) const {
    return value<std::vector<std::string>>(key, {}, "a list of texts");
  }
  std::vector<double> numbers(const std::string& key) const {
    return value<std::vector<double>>(key, {}, "a list of numbers");
  }

  /// Throws FormatError where there is no such tensor.
  const GgufTensor& at(const std::string& name) const {
    const auto found = tensors_.find(name);
    MOLE_CHECK_FORMAT(found != tensors_.end(), source_, "there is no tensor", quote(name));
    return found->second;
  }
  /// Throws FormatError where there is no such tensor, and for a type that is not read.
  void check_type(const std::string& name) const {
    const auto type = at(name).type;
    MOLE_CHECK_FORMAT(
        gguf_format(type), source_, "tensor", quote(name), "is stored as ggml type", type,
        ", which is not read: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K to Q6_K are");
  }
  /// The tensor's numbers. Throws FormatError, naming the tensor, for a type that is not read or a block whose
  /// scale is not finite.
  template <class T>
  std::vector<T> read(const std::string& name) const {
    const auto& tensor = at(name);
    check_type(name);
    const auto* format = gguf_format(tensor.type);
    std::vector<T> values(static_cast<std::size_t>(tensor.shape.size()));
    const Index bad = dequantise(*format, tensor.data, tensor.shape.size(), values.data());
    MOLE_CHECK_FORMAT(bad < 0, source_, "tensor", quote(name), "has numbers that are not finite in block",
                      bad);
    return values;
  }

 private:
  detail::GgufKind kind_of(std::uint32_t number, const std::string& key) const {
    MOLE_CHECK_FORMAT(number <= 12, source_, "the key", quote(key), "has a value of unknown type", number);
    return static_cast<detail::GgufKind>(number);
  }

  template <class V>
  V value(const std::string& key, V otherwise, const char* kind) const {
    const auto found = values_.find(key);
    if (found == values_.end()) return otherwise;
    const auto* held = std::get_if<V>(&found->second);
    MOLE_CHECK_FORMAT(held, source_, key, "should be", kind);
    return *held;
  }

  static GgufValue read_scalar(detail::GgufCursor& in, detail::GgufKind kind) {
    using detail::GgufKind;
    const auto whole = [](auto value) { return GgufValue(static_cast<std::int64_t>(value)); };
    switch (kind) {
      case GgufKind::u8:
        return whole(in.number<std::uint8_t>());
      case GgufKind::i8:
        return whole(in.number<std::int8_t>());
      case GgufKind::u16:
        return whole(in.number<std::uint16_t>());
      case GgufKind::i16:
        return whole(in.number<std::int16_t>());
      case GgufKind::u32:
        return whole(in.number<std::uint32_t>());
      case GgufKind::i32:
        return whole(in.number<std::int32_t>());
      // One above the largest is no size of anything here.
      case GgufKind::u64:
        return whole(std::min<std::uint64_t>(in.number<std::uint64_t>(), INT64_MAX));
      case GgufKind::i64:
        return whole(in.number<std::int64_t>());
      case GgufKind::f32:
        return detail::decimal(in.number<float>());
      case GgufKind::f64:
        return in.number<double>();
      case GgufKind::flag:
        return in.number<std::uint8_t>() != 0;
      default:
        return in.text();
    }
  }

  GgufValue read_value(detail::GgufCursor& in, const std::string& key, detail::GgufKind kind,
                       int depth) const {
    if (kind != detail::GgufKind::list) return read_scalar(in, kind);
    MOLE_CHECK_FORMAT(depth < 4, source_, "the key", quote(key), "holds lists in lists, deeper than 4");
    const auto inner = kind_of(in.number<std::uint32_t>(), key);
    const auto n = in.number<std::uint64_t>();
    in.need(n, detail::least_bytes(inner));
    if (inner == detail::GgufKind::list) {
      for (std::uint64_t i = 0; i < n; ++i) read_value(in, key, inner, depth + 1);
      return std::vector<double>();
    }
    if (inner == detail::GgufKind::text) {
      std::vector<std::string> texts;
      for (std::uint64_t i = 0; i < n; ++i) texts.push_back(in.text());
      return texts;
    }
    std::vector<double> numbers;
    for (std::uint64_t i = 0; i < n; ++i) {
      const auto value = read_scalar(in, inner);
      if (const auto* real = std::get_if<double>(&value))
        numbers.push_back(*real);
      else if (const auto* whole = std::get_if<std::int64_t>(&value))
        numbers.push_back(static_cast<double>(*whole));
      else
        numbers.push_back(std::get<bool>(value) ? 1 : 0);
    }
    return numbers;
  }

  /// Its offset is kept in place of the pointer until all are known.
  void read_tensor(detail::GgufCursor& in) {
    const auto name = in.text();
    const auto where = [&] { return source_ + " tensor " + quote(name); };
    const auto rank = in.number<std::uint32_t>();
    MOLE_CHECK_FORMAT(rank <= 4, where(), "has", rank, "dimensions; at most 4 are read");
    std::vector<Index> extents;
    for (std::uint32_t i = 0; i < rank; ++i) {
      const auto extent = in.number<std::uint64_t>();
      MOLE_CHECK_FORMAT(extent <= std::uint64_t{1} << 40, where(), "has an extent of", extent);
      extents.insert(extents.begin(), static_cast<Index>(extent));
    }
    GgufTensor tensor;
    tensor.type = in.number<std::uint32_t>();
    const auto offset = in.number<std::uint64_t>();
    try {
      tensor.shape = Shape(extents);
    } catch (const Error& error) {
      throw FormatError(message(where(), "has an impossible shape:", error.what()));
    }
    if (const auto* format = gguf_format(tensor.type)) {
      const Index row = extents.empty() ? 1 : extents.back();
      MOLE_CHECK_FORMAT(row % format->values == 0, where(), "has rows of", row,
                        ", no whole number of blocks of", format->values);
      const Index blocks = tensor.shape.size() / format->values;
      MOLE_CHECK_FORMAT(blocks <= std::numeric_limits<Index>::max() / format->bytes, where(), "is too large");
      tensor.bytes = blocks * format->bytes;
    }
    MOLE_CHECK_FORMAT(tensors_.emplace(name, tensor).second, where(), "is there twice");
    order_.emplace_back(offset, name);
  }

  void place_tensors(std::size_t end) {
    const auto bytes = file_.bytes();
    const auto alignment = static_cast<std::uint64_t>(integer("general.alignment", 32, 1, 1 << 20));
    const std::uint64_t start = (end + alignment - 1) / alignment * alignment;
    std::sort(order_.begin(), order_.end());
    std::uint64_t next = 0;
    for (const auto& [offset, name] : order_) {
      auto& tensor = tensors_.at(name);
      const std::string where = source_ + " tensor " + quote(name);
      const auto size = static_cast<std::uint64_t>(tensor.bytes);
      MOLE_CHECK_FORMAT(offset % alignment == 0, where, "begins at", offset, ", no multiple of", alignment);
      MOLE_CHECK_FORMAT(
          start <= bytes.size() && offset <= bytes.size() - start && size <= bytes.size() - start - offset,
          where, "ends beyond the file, which is cut short");
      MOLE_CHECK_FORMAT(offset >= next, where, "overlaps the tensor before it");
      next = offset + size;
      tensor.data = bytes.data() + start + offset;
    }
  }

  std::filesystem::path path_;
  detail::MappedFile file_;
  std::string source_;
  std::map<std::string, GgufValue> values_;
  std::map<std::string, GgufTensor> tensors_;
  std::vector<std::pair<std::uint64_t, std::string>> order_;
};

}  // namespace mole
