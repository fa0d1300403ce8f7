#pragma once
// safetensors files: read through a memory map with every claim of the header checked, written atomically.
// Layout: u64 length of the header, the header (JSON), the tensors' bytes one after another with no gap.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/core/shape.hpp>
#include <mole/io/atomic_file.hpp>
#include <mole/io/dtype.hpp>
#include <mole/io/json.hpp>
#include <mole/io/mapped_file.hpp>
#include <mole/io/safetensors_header.hpp>

namespace mole {

/// A stored tensor: row-major, little-endian, not aligned. Valid as long as the file it was taken from.
struct TensorView {
  Dtype dtype = Dtype::F32;
  Shape shape;
  const std::byte* data = nullptr;
  Index bytes = 0;
};

/// A stored tensor of a type that the library does not read: it is no error until it is asked for.
struct UnreadTensor {
  std::string_view dtype;  ///< such as "F8_E4M3"
  Shape shape;
  Index bytes = 0;
  const std::byte* data = nullptr;  ///< for who knows what it means; valid as long as the file
};

/// A safetensors file, mapped. Opening checks the whole header and touches no tensor.
class SafetensorsFile {
 public:
  /// Throws Error where the file cannot be read; FormatError, naming the file and the tensor, for a file that
  /// is cut short or a Git LFS pointer, a header that is not what the format says (too long, malformed, nested,
  /// a name or field given twice, more than 100'000 texts of metadata or 500'000 tensors), an unknown dtype, a
  /// shape that overflows or has more than 8 axes, or offsets that overlap, leave a gap, point outside the data
  /// or do not fit the shape.
  explicit SafetensorsFile(const std::filesystem::path& path) : path_(path), file_(path) {
    const auto bytes = file_.bytes();
    const std::string source = message(path_) + ":";
    detail::check_no_lfs_pointer({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, source);
    MOLE_CHECK_FORMAT(bytes.size() >= 8, source, "expected a safetensors file, found only", bytes.size(),
                      "bytes");
    std::uint64_t length;
    std::memcpy(&length, bytes.data(), 8);
    MOLE_CHECK_FORMAT(length <= max_json_bytes, source, "the header claims", length, "bytes; at most",
                      max_json_bytes, "are allowed: it is damaged or no safetensors file");
    MOLE_CHECK_FORMAT(length <= bytes.size() - 8, source, "the header claims", length, "bytes, but",
                      bytes.size() - 8, "follow: the file is cut short or no safetensors file");
    const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + 8,
                                  static_cast<std::size_t>(length));
    MOLE_CHECK_FORMAT(header.starts_with('{'), source, "the header does not begin with '{'");
    MOLE_CHECK_FORMAT(header.find('\0') == header.npos, source, "the header holds a NUL at its byte",
                      header.find('\0'));
    const auto data = bytes.subspan(8 + header.size());
    std::vector<Extent> extents;
    detail::HeaderReader reader(
        source, [&](const std::string& name) { return contains(name); },
        [&](const std::string& name, const detail::HeaderTensor& tensor) {
          take(name, tensor, data, source, extents);
        });
    detail::parse_json(header, reader);
    metadata_ = std::move(reader.metadata);
    check_extents(extents, static_cast<Index>(data.size()), source);
  }

  const std::filesystem::path& path() const { return path_; }
  /// The texts under `__metadata__`.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool contains(const std::string& name) const { return tensors_.contains(name) || unread_.contains(name); }
  /// The tensors that at() and read() refuse, as their type is not one of Dtype's.
  const std::map<std::string, UnreadTensor>& unread() const { return unread_; }

  /// The tensors' names, sorted, those of unread() among them.
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& [name, view] : tensors_) names.push_back(name);
    const auto middle = static_cast<std::ptrdiff_t>(names.size());
    for (const auto& [name, tensor] : unread_) names.push_back(name);
    std::inplace_merge(names.begin(), names.begin() + middle, names.end());
    return names;
  }

  /// Throws FormatError, naming file and tensor, where there is none of that name, or one of unread().
  const TensorView& at(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found != tensors_.end()) return found->second;
    const auto unread = unread_.find(name);
    MOLE_CHECK_FORMAT(unread != unread_.end(), path_, "holds no tensor", quote(name));
    throw FormatError(message(message(path_) + ": tensor", quote(name), "is stored as", unread->second.dtype,
                              ", which is not read: convert it to F32, F16 or BF16 first"));
  }

  /// The tensor's elements, converted to T. Throws FormatError as at() does, and where T is a whole number and
  /// an element is not.
  template <HostNumber T>
  std::vector<T> read(const std::string& name) const {
    const TensorView& view = at(name);
    std::vector<T> values(static_cast<std::size_t>(view.shape.size()));
    try {
      decode(view.dtype, view.data, view.shape.size(), values.data());
    } catch (const FormatError& error) {
      throw FormatError(message(path_, "tensor", quote(name) + ":", error.what()));
    }
    return values;
  }

  /// Gives back the memory that reading a tensor took beside its result: the pages of the file. It may be read again.
  /// Throws as at() does.
  void forget(const std::string& name) const {
    const TensorView& view = at(name);
    file_.forget({view.data, static_cast<std::size_t>(view.bytes)});
  }

 private:
  // Where a tensor lies in the data; `name` is a key of one of the maps.
  struct Extent {
    Index begin, end;
    const std::string* name;
  };

  void take(const std::string& name, const detail::HeaderTensor& tensor, std::span<const std::byte> data,
            const std::string& source, std::vector<Extent>& extents) {
    // Made only for an error: a header may hold a million tensors.
    const auto where = [&] { return source + " tensor " + quote(name); };
    MOLE_CHECK_FORMAT(tensor.dtype && tensor.shape && tensor.offsets, where(),
                      "lacks one of dtype, shape and data_offsets");
    const detail::ForeignDtype* foreign = detail::foreign_dtype(*tensor.dtype);
    Dtype dtype = Dtype::U8;
    Shape shape;
    try {
      if (!foreign) dtype = dtype_from_name(*tensor.dtype);
      shape = Shape(*tensor.shape);
    } catch (const Error& error) {
      throw FormatError(message(where(), "has an impossible type or shape:", error.what()));
    }
    MOLE_CHECK_FORMAT(tensor.offsets->size() == 2, where(), "has", tensor.offsets->size(),
                      "data_offsets, not 2");
    const Index begin = tensor.offsets->front(), end = tensor.offsets->back(), bytes = end - begin;
    const auto size = static_cast<Index>(data.size());
    MOLE_CHECK_FORMAT(begin <= end, where(), "begins at", begin, "and ends before, at", end);
    MOLE_CHECK_FORMAT(end <= size, where(), "ends at byte", end, "of", size,
                      "bytes of data: the file is cut short");
    // Divided rather than multiplied: the product may overflow. Bytes are fewer than the file's, and 2^60.
    const Index bits = foreign ? foreign->bits : 8 * dtype_size(dtype);
    MOLE_CHECK_FORMAT(8 * bytes % bits == 0 && 8 * bytes / bits == shape.size(), where(), shape, "of",
                      *tensor.dtype, "does not fill the", bytes, "bytes that data_offsets give");
    const std::string* key = nullptr;
    if (foreign)
      key =
          &unread_.emplace(name, UnreadTensor{foreign->name, shape, bytes, data.data() + begin}).first->first;
    else
      key = &tensors_.emplace(name, TensorView{dtype, shape, data.data() + begin, bytes}).first->first;
    extents.push_back({begin, end, key});
  }

  static void check_extents(std::vector<Extent>& extents, Index size, const std::string& source) {
    // Stable: of two that begin at one place, the later in the header is the one that overlaps.
    std::stable_sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) {
      return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
    });
    Index next = 0;
    for (const Extent& extent : extents) {
      if (extent.begin == next) {
        next = extent.end;
        continue;
      }
      const std::string where = source + " tensor " + quote(*extent.name);
      MOLE_CHECK_FORMAT(extent.begin > next, where, "begins at byte", extent.begin,
                        "and overlaps the tensor before, which ends at", next);
      MOLE_CHECK_FORMAT(false, where, "begins at byte", extent.begin, "and leaves a gap after", next);
    }
    MOLE_CHECK_FORMAT(next == size, source, size - next, "bytes follow the last tensor");
  }

  std::filesystem::path path_;
  detail::MappedFile file_;
  std::map<std::string, std::string> metadata_;
  std::map<std::string, TensorView> tensors_;
  std::map<std::string, UnreadTensor> unread_;
};

/// Collects tensors, then writes them as one file that the reference implementation loads.
class SafetensorsWriter {
 public:
  /// Adds a tensor, values row-major, converted to the stored type at once. Throws ArgumentError for a name
  /// already added, another number of values than the shape has, or values that the type cannot hold.
  template <HostNumber T>
  void add(const std::string& name, Dtype stored_as, const Shape& shape, std::span<const T> values) {
    check_new(name, shape, static_cast<Index>(values.size()));
    std::vector<std::byte> bytes(values.size() * static_cast<std::size_t>(dtype_size(stored_as)));
    encode(stored_as, values.data(), shape.size(), bytes.data());
    put(name, stored_as, shape, std::move(bytes));
  }
  /// The same for a vector.
  template <HostNumber T>
  void add(const std::string& name, Dtype stored_as, const Shape& shape, const std::vector<T>& values) {
    add(name, stored_as, shape, std::span<const T>(values));
  }

  /// Adds a tensor whose bytes are those of the stored type.
  void add_bytes(const std::string& name, Dtype dtype, const Shape& shape, std::span<const std::byte> bytes) {
    check_new(name, shape, static_cast<Index>(bytes.size()) / dtype_size(dtype));
    put(name, dtype, shape, {bytes.begin(), bytes.end()});
  }

  /// Sets a text under `__metadata__`.
  void metadata(const std::string& key, const std::string& value) { metadata_[key] = value; }

  /// Replaces the file at `path`, atomically. Throws Error where it cannot be written, a name is not UTF-8, or there is
  /// more than SafetensorsFile reads.
  void write(const std::filesystem::path& path) const {
    write_atomically(path, [this](AtomicFile& file) { write(file); });
  }

  /// Appends the whole of it to a file being written.
  void write(AtomicFile& file) const {
    using Reader = detail::HeaderReader;
    MOLE_CHECK_AS(Error, tensors_.size() <= Reader::most_tensors && metadata_.size() <= Reader::most_texts,
                  "safetensors:", tensors_.size(), "tensors and", metadata_.size(),
                  "texts of metadata; at most", Reader::most_tensors, "and", Reader::most_texts,
                  "are read again");
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

  void check_new(const std::string& name, const Shape& shape, Index values) const {
    MOLE_CHECK_ARG(name != "__metadata__", "safetensors: a tensor cannot be called __metadata__");
    MOLE_CHECK_ARG(!names_.contains(name), "safetensors: tensor", quote(name), "was already added");
    MOLE_CHECK_ARG(values == shape.size(), "safetensors: tensor", quote(name), "of shape", shape, "needs",
                   shape.size(), "values, got", values);
  }

  void put(const std::string& name, Dtype dtype, const Shape& shape, std::vector<std::byte> bytes) {
    names_.insert(name);
    tensors_[{order(dtype), name}] = {dtype, shape, std::move(bytes)};
  }

  // The reference implementation's order, widest types first, which keeps all aligned.
  static int order(Dtype dtype) {
    constexpr std::array written{Dtype::I64,  Dtype::F64, Dtype::F32, Dtype::I32,
                                 Dtype::BF16, Dtype::F16, Dtype::U8,  Dtype::BOOL};
    return static_cast<int>(std::find(written.begin(), written.end(), dtype) - written.begin());
  }

  static std::string quoted(const std::string& text) { return detail::json_value(text).dump(); }

  std::string header() const {
    try {
      std::string text = "{";
      std::string metadata;
      for (const auto& [key, value] : metadata_)
        metadata += (metadata.empty() ? "" : ",") + quoted(key) + ":" + quoted(value);
      if (!metadata.empty()) text += "\"__metadata__\":{" + metadata + "},";
      Index begin = 0;
      for (const auto& [key, tensor] : tensors_) {
        const Index end = begin + std::ssize(tensor.bytes);
        const auto entry =
            detail::json_object({{"dtype", std::string(dtype_name(tensor.dtype))},
                                 {"shape", std::vector<Index>(tensor.shape.begin(), tensor.shape.end())},
                                 {"data_offsets", std::vector<Index>{begin, end}}});
        begin = end;
        text += quoted(key.second) + ":" + entry.dump() + ",";
      }
      if (text.back() == ',') text.pop_back();
      text += "}";
      text.resize((text.size() + 7) / 8 * 8, ' ');
      return text;
    } catch (const Json::exception& error) {
      throw Error(message("safetensors: a name or metadata is not UTF-8:", error.what()));
    }
  }

  std::map<std::pair<int, std::string>, Tensor> tensors_;
  std::set<std::string> names_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace mole
