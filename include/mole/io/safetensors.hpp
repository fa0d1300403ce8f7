#pragma once
// safetensors files: read through a memory map with every claim of the header checked, written atomically.
// Layout: u64 length of the header, the header (JSON), the tensors' bytes one after another with no gap.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <mole/core/error.hpp>
#include <mole/core/shape.hpp>
#include <mole/io/atomic_file.hpp>
#include <mole/io/dtype.hpp>
#include <mole/io/json.hpp>
#include <mole/io/mapped_file.hpp>

namespace mole {

/// A stored tensor: row-major, little-endian, not aligned. Valid as long as the file it was taken from.
struct TensorView {
  Dtype dtype = Dtype::F32;
  Shape shape;
  const std::byte* data = nullptr;
  Index bytes = 0;
};

namespace detail {

struct HeaderTensor {
  std::optional<std::string> dtype;
  std::optional<std::vector<Index>> shape, offsets;
};

// Takes the header apart as it is parsed: a key given twice cannot hide behind the last one, nothing is
// nested deeper than the format has it, and a hostile 100 MB costs no tree.
class HeaderReader {
 public:
  explicit HeaderReader(std::string source) : source_(std::move(source)) {}

  std::map<std::string, HeaderTensor> tensors;
  std::map<std::string, std::string> metadata;

  bool null() { unexpected("null"); }
  bool boolean(bool) { unexpected("a boolean"); }
  bool number_integer(std::int64_t value) { unexpected("the negative number " + std::to_string(value)); }
  bool number_float(double, const std::string& text) { unexpected("the number " + text); }
  bool binary(nlohmann::json::binary_t&) { unexpected("binary data"); }
  bool number_unsigned(std::uint64_t value) {
    if (list_ == nullptr) unexpected("the number " + std::to_string(value));
    if (value > static_cast<std::uint64_t>(std::numeric_limits<Index>::max()))
      unexpected("the number " + std::to_string(value));
    if (list_->size() >= Shape::max_rank)
      unexpected("a list longer than the " + std::to_string(Shape::max_rank) + " axes supported");
    list_->push_back(static_cast<Index>(value));
    return true;
  }
  bool string(std::string& value) {
    if (place_ == Place::metadata) {
      metadata[field_] = value;
    } else if (place_ == Place::tensor && list_ == nullptr && field_ == "dtype") {
      tensors[name_].dtype = value;
    } else {
      unexpected("the text '" + value.substr(0, 60) + "'");
    }
    return true;
  }
  bool start_object(std::size_t) {
    if (place_ == Place::outside) {
      place_ = Place::top;
    } else if (place_ == Place::top) {
      place_ = name_ == "__metadata__" ? Place::metadata : Place::tensor;
      if (place_ == Place::tensor) tensors[name_];
      field_.clear();
      fields_.clear();
    } else {
      unexpected("an object");
    }
    return true;
  }
  bool key(std::string& key) {
    if (place_ == Place::top) {
      name_ = key;
      field_.clear();
      MOLE_CHECK_FORMAT(names_.insert(key).second, source_, "the header names", quoted(key), "twice");
      return true;
    }
    field_ = key;
    MOLE_CHECK_FORMAT(fields_.insert(key).second, where(), "is given twice");
    MOLE_CHECK_FORMAT(place_ == Place::metadata || key == "dtype" || key == "shape" || key == "data_offsets",
                      where(), "is unknown: a tensor has dtype, shape and data_offsets");
    return true;
  }
  bool end_object() {
    place_ = place_ == Place::top ? Place::outside : Place::top;
    return true;
  }
  bool start_array(std::size_t) {
    if (place_ != Place::tensor || list_ != nullptr || field_ == "dtype") unexpected("a list");
    auto& tensor = tensors[name_];
    list_ = &(field_ == "shape" ? tensor.shape : tensor.offsets).emplace();
    return true;
  }
  bool end_array() {
    list_ = nullptr;
    return true;
  }
  bool parse_error(std::size_t byte, const std::string&, const nlohmann::json::exception& error) {
    throw FormatError(message(source_, "the header is malformed JSON at its byte", byte,
                              std::string("(") + error.what() + ")"));
  }

  static std::string quoted(const std::string& name) {
    return "'" + (name.size() > 200 ? name.substr(0, 200) + "..." : name) + "'";
  }

 private:
  enum class Place { outside, top, metadata, tensor };

  std::string where() const {
    const std::string field = field_.empty() ? "" : " field " + quoted(field_);
    if (place_ == Place::outside) return source_ + " the header";
    return source_ + (name_ == "__metadata__" ? " metadata" : " tensor " + quoted(name_)) + field;
  }
  [[noreturn]] void unexpected(const std::string& found) const {
    const char* expected = "an object";
    if (place_ == Place::metadata) expected = "text";
    if (place_ == Place::tensor)
      expected = field_ == "dtype" ? "text" : "a list of whole numbers, none negative";
    throw FormatError(message(where(), "should be", expected, "and is", found));
  }

  std::string source_, name_, field_;
  std::set<std::string> names_, fields_;
  std::vector<Index>* list_ = nullptr;
  Place place_ = Place::outside;
};

}  // namespace detail

/// A safetensors file, mapped. Opening checks the whole header and touches no tensor.
class SafetensorsFile {
 public:
  /// Throws Error where the file cannot be read; FormatError, naming the file and the tensor, for a file that
  /// is cut short, a header that is not what the format says (too long, malformed, nested, a name or field
  /// given twice), an unknown dtype, an overflowing shape, or offsets that overlap, leave a gap, point
  /// outside the data or do not fit the shape.
  explicit SafetensorsFile(const std::filesystem::path& path) : path_(path), file_(path) {
    const auto bytes = file_.bytes();
    const std::string source = message(path_) + ":";
    MOLE_CHECK_FORMAT(bytes.size() >= 8, source, "expected a safetensors file, found only", bytes.size(),
                      "bytes");
    std::uint64_t length;
    std::memcpy(&length, bytes.data(), 8);
    MOLE_CHECK_FORMAT(length <= max_json_bytes, source, "the header claims", length, "bytes; at most",
                      max_json_bytes, "are allowed");
    MOLE_CHECK_FORMAT(length <= bytes.size() - 8, source, "the header claims", length, "bytes, but",
                      bytes.size() - 8, "follow: the file is cut short or no safetensors file");
    const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + 8,
                                  static_cast<std::size_t>(length));
    MOLE_CHECK_FORMAT(header.starts_with('{'), source, "the header does not begin with '{'");
    MOLE_CHECK_FORMAT(header.find('\0') == header.npos, source, "the header holds a NUL at its byte",
                      header.find('\0'));
    detail::HeaderReader reader(source);
    nlohmann::json::sax_parse(header.begin(), header.end(), &reader);
    metadata_ = std::move(reader.metadata);
    take(reader.tensors, bytes.subspan(8 + header.size()), source);
  }

  const std::filesystem::path& path() const { return path_; }
  /// The texts under `__metadata__`.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool contains(const std::string& name) const { return tensors_.contains(name); }

  /// The tensors' names, sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& [name, view] : tensors_) names.push_back(name);
    return names;
  }

  /// Throws FormatError, naming file and tensor, where there is none of that name.
  const TensorView& at(const std::string& name) const {
    const auto found = tensors_.find(name);
    MOLE_CHECK_FORMAT(found != tensors_.end(), path_, "holds no tensor", detail::HeaderReader::quoted(name));
    return found->second;
  }

  /// The tensor's elements, converted to T. Throws FormatError where there is none of that name, or where T
  /// is a whole number and an element is not.
  template <HostNumber T>
  std::vector<T> read(const std::string& name) const {
    const TensorView& view = at(name);
    std::vector<T> values(static_cast<std::size_t>(view.shape.size()));
    try {
      decode(view.dtype, view.data, view.shape.size(), values.data());
    } catch (const FormatError& error) {
      throw FormatError(message(path_, "tensor", detail::HeaderReader::quoted(name) + ":", error.what()));
    }
    return values;
  }

 private:
  void take(const std::map<std::string, detail::HeaderTensor>& tensors, std::span<const std::byte> data,
            const std::string& source) {
    struct Extent {
      Index begin, end;
      std::string where;
    };
    std::vector<Extent> extents;
    const auto size = static_cast<Index>(data.size());
    for (const auto& [name, tensor] : tensors) {
      const std::string where = source + " tensor " + detail::HeaderReader::quoted(name);
      MOLE_CHECK_FORMAT(tensor.dtype && tensor.shape && tensor.offsets, where,
                        "lacks one of dtype, shape and data_offsets");
      TensorView view;
      try {
        view.dtype = dtype_from_name(*tensor.dtype);
        view.shape = Shape(*tensor.shape);
      } catch (const Error& error) {
        throw FormatError(message(where, "has an impossible type or shape:", error.what()));
      }
      MOLE_CHECK_FORMAT(tensor.offsets->size() == 2, where, "has", tensor.offsets->size(),
                        "data_offsets, not 2");
      const Index begin = tensor.offsets->front(), end = tensor.offsets->back();
      MOLE_CHECK_FORMAT(begin <= end, where, "begins at", begin, "and ends before, at", end);
      MOLE_CHECK_FORMAT(end <= size, where, "ends at byte", end, "of", size,
                        "bytes of data: the file is cut short");
      view.bytes = end - begin;
      // Divided rather than multiplied: the product may overflow.
      MOLE_CHECK_FORMAT(view.bytes % dtype_size(view.dtype) == 0 &&
                            view.bytes / dtype_size(view.dtype) == view.shape.size(),
                        where, view.shape, "of", view.dtype, "does not fill the", view.bytes,
                        "bytes that data_offsets give");
      view.data = data.data() + begin;
      extents.push_back({begin, end, where});
      tensors_.emplace(name, view);
    }
    std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) {
      return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
    });
    Index next = 0;
    for (const Extent& extent : extents) {
      MOLE_CHECK_FORMAT(extent.begin >= next, extent.where, "begins at byte", extent.begin,
                        "and overlaps the tensor before, which ends at", next);
      MOLE_CHECK_FORMAT(extent.begin == next, extent.where, "begins at byte", extent.begin,
                        "and leaves a gap after", next);
      next = extent.end;
    }
    MOLE_CHECK_FORMAT(next == size, source, size - next, "bytes follow the last tensor");
  }

  std::filesystem::path path_;
  detail::MappedFile file_;
  std::map<std::string, std::string> metadata_;
  std::map<std::string, TensorView> tensors_;
};

/// Collects tensors, then writes them as one file that the reference implementation loads.
class SafetensorsWriter {
 public:
  /// Adds a tensor, values row-major, converted to the stored type at once. Throws ArgumentError for a name
  /// already added, another number of values than the shape has, or values that the type cannot hold.
  template <HostNumber T>
  void add(const std::string& name, Dtype stored_as, const Shape& shape, std::span<const T> values) {
    MOLE_CHECK_ARG(name != "__metadata__", "safetensors: a tensor cannot be called __metadata__");
    MOLE_CHECK_ARG(!names_.contains(name), "safetensors: tensor", name, "was already added");
    MOLE_CHECK_ARG(static_cast<Index>(values.size()) == shape.size(), "safetensors: tensor", name, "of shape",
                   shape, "needs", shape.size(), "values, got", values.size());
    std::vector<std::byte> bytes(values.size() * static_cast<std::size_t>(dtype_size(stored_as)));
    encode(stored_as, values.data(), shape.size(), bytes.data());
    names_.insert(name);
    tensors_[{order(stored_as), name}] = {stored_as, shape, std::move(bytes)};
  }
  /// The same for a vector.
  template <HostNumber T>
  void add(const std::string& name, Dtype stored_as, const Shape& shape, const std::vector<T>& values) {
    add(name, stored_as, shape, std::span<const T>(values));
  }

  /// Sets a text under `__metadata__`.
  void metadata(const std::string& key, const std::string& value) { metadata_[key] = value; }

  /// Replaces the file at `path`, atomically. Throws Error where it cannot be written or a name is not UTF-8.
  void write(const std::filesystem::path& path) const {
    write_atomically(path, [this](AtomicFile& file) { write(file); });
  }

  /// Appends the whole of it to a file being written.
  void write(AtomicFile& file) const {
    const std::string text = header();
    const std::uint64_t length = text.size();
    MOLE_CHECK_AS(Error, length <= max_json_bytes, "safetensors: a header of", length, "bytes; at most",
                  max_json_bytes, "are allowed");
    file.write(std::as_bytes(std::span(&length, 1)));
    file.write(text);
    for (const auto& [key, tensor] : tensors_) file.write(tensor.bytes);
  }

 private:
  struct Tensor {
    Dtype dtype;
    Shape shape;
    std::vector<std::byte> bytes;
  };

  // The reference implementation's order, widest types first, which keeps all aligned.
  static int order(Dtype dtype) {
    constexpr std::array written{Dtype::I64,  Dtype::F64, Dtype::F32, Dtype::I32,
                                 Dtype::BF16, Dtype::F16, Dtype::U8,  Dtype::BOOL};
    return static_cast<int>(std::find(written.begin(), written.end(), dtype) - written.begin());
  }

  std::string header() const {
    try {
      std::string text = "{";
      if (!metadata_.empty()) text += "\"__metadata__\":" + nlohmann::json(metadata_).dump() + ",";
      std::size_t begin = 0;
      for (const auto& [key, tensor] : tensors_) {
        const nlohmann::json entry{{"dtype", dtype_name(tensor.dtype)},
                                   {"shape", std::vector<Index>(tensor.shape.begin(), tensor.shape.end())},
                                   {"data_offsets", {begin, begin + tensor.bytes.size()}}};
        begin += tensor.bytes.size();
        text += nlohmann::json(key.second).dump() + ":" + entry.dump() + ",";
      }
      if (text.back() == ',') text.pop_back();
      text += "}";
      text.resize((text.size() + 7) / 8 * 8, ' ');
      return text;
    } catch (const nlohmann::json::exception& error) {
      throw Error(message("safetensors: a name or metadata is not UTF-8:", error.what()));
    }
  }

  std::map<std::pair<int, std::string>, Tensor> tensors_;
  std::set<std::string> names_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace mole
