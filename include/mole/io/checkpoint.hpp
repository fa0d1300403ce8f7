#pragma once
// The weights of a model's folder, in one safetensors file or in several that an index names.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/io/dtype.hpp>
#include <mole/io/json.hpp>
#include <mole/io/mapped_file.hpp>
#include <mole/io/safetensors.hpp>

namespace mole {

namespace detail {

/// Whether two stored tensors hold the same numbers, NaN being like NaN. Throws as decode() does.
inline bool same_numbers(const TensorView& a, const TensorView& b) {
  if (!(a.shape == b.shape)) return false;
  if (a.dtype == b.dtype) return a.data == b.data || std::equal(a.data, a.data + a.bytes, b.data);
  constexpr Index chunk = 4096;
  std::vector<double> x(static_cast<std::size_t>(chunk)), y(x.size());
  for (Index first = 0; first < a.shape.size(); first += chunk) {
    const Index n = std::min(chunk, a.shape.size() - first);
    decode(a.dtype, a.data + first * dtype_size(a.dtype), n, x.data());
    decode(b.dtype, b.data + first * dtype_size(b.dtype), n, y.data());
    for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i)
      if (x[i] != y[i] && !(is_nan(x[i]) && is_nan(y[i]))) return false;
  }
  return true;
}

}  // namespace detail

/// A folder's weights under one roof: STEM.safetensors, or the shards of STEM.safetensors.index.json (its
/// weight_map says which file holds which tensor), as transformers writes them. Opening checks every header and
/// touches no tensor.
class Checkpoint {
 public:
  /// Where both are, the single file counts, as it does to transformers. Throws FormatError, naming file and
  /// tensor, for an index that is malformed, names a file outside the folder or one that is not there, or
  /// whose tensors are not those of the shards, each in its place; for what SafetensorsFile refuses; Error
  /// where there are no weights, or none that are read (pytorch_model.bin).
  explicit Checkpoint(const std::filesystem::path& folder, const std::string& stem = "model") {
    const auto single = folder / (stem + ".safetensors"), index = folder / (stem + ".safetensors.index.json");
    if (detail::file_exists(single)) {
      path_ = single;
      files_.emplace_back(single);
      for (const auto& name : files_.front().names()) places_[name] = 0;
    } else if (detail::file_exists(index)) {
      path_ = index;
      open_shards(folder, index);
    } else {
      refuse(folder, single, stem);
    }
  }

  /// The single file, or the index: for messages about the whole.
  const std::filesystem::path& path() const { return path_; }
  /// The file that holds a tensor. Throws FormatError where there is none of that name.
  const SafetensorsFile& file_of(const std::string& name) const {
    const auto found = places_.find(name);
    MOLE_CHECK_FORMAT(found != places_.end(), message(path_) + ":", "there is no tensor", quote(name));
    return files_[found->second];
  }

  /// Of the single file, or of the first shard.
  const std::map<std::string, std::string>& metadata() const { return files_.front().metadata(); }
  bool contains(const std::string& name) const { return places_.contains(name); }
  /// The tensors' names, sorted; those of a type that is not read are among them.
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& [name, place] : places_) names.push_back(name);
    return names;
  }
  /// Throws as SafetensorsFile::at().
  const TensorView& at(const std::string& name) const { return file_of(name).at(name); }
  /// The tensor's elements, converted to T. Throws as SafetensorsFile::read().
  template <HostNumber T>
  std::vector<T> read(const std::string& name) const {
    return file_of(name).template read<T>(name);
  }
  /// Whether the tensor holds no number, of whatever type it is.
  bool is_empty(const std::string& name) const {
    const auto& file = file_of(name);
    const auto unread = file.unread().find(name);
    return (unread == file.unread().end() ? file.at(name).shape : unread->second.shape).size() == 0;
  }

 private:
  [[noreturn]] static void refuse(const std::filesystem::path& folder, const std::filesystem::path& single,
                                  const std::string& stem) {
    MOLE_CHECK_AS(Error, detail::file_exists(folder), folder, "is not there");
    for (const std::string& other :
         {std::string("pytorch_model.bin"), std::string("pytorch_model.bin.index.json"), stem + ".bin"})
      MOLE_CHECK_AS(Error, !detail::file_exists(folder / other), folder, "holds", other, "and no",
                    single.filename(),
                    "; only safetensors are read: load the model in transformers or diffusers and call "
                    "save_pretrained(FOLDER, safe_serialization=True)");
    throw Error(
        message(folder, "holds no weights: neither", single.filename(), "nor its .index.json is there"));
  }

  void open_shards(const std::filesystem::path& folder, const std::filesystem::path& index) {
    const std::string source = message(index) + ":";
    const auto json = read_json(index, max_json_bytes);
    const auto* const weight_map = detail::find_field(json, "weight_map");
    MOLE_CHECK_FORMAT(weight_map && weight_map->is_object(), source,
                      "expected an object weight_map, from the tensors' names to those of their files");
    std::map<std::string, std::size_t> shards;
    for (const auto& [tensor, file] : detail::fields_of(*weight_map)) {
      MOLE_CHECK_FORMAT(file.is_string(), source, "weight_map", quote(tensor), "should be a file's name");
      const auto& shard = file.get_ref<const std::string&>();
      auto found = shards.find(shard);
      if (found == shards.end()) {
        open_shard(folder, shard, source);
        found = shards.emplace(shard, files_.size() - 1).first;
      }
      MOLE_CHECK_FORMAT(files_[found->second].contains(tensor), source, "tensor", quote(tensor),
                        "should be in", quote(shard), "and is not");
      places_[tensor] = found->second;
    }
    MOLE_CHECK_FORMAT(!files_.empty(), source, "weight_map names no tensor");
    for (const auto& [shard, place] : shards) {
      for (const auto& name : files_[place].names()) {
        const auto found = places_.find(name);
        MOLE_CHECK_FORMAT(found != places_.end(), source, "does not name tensor", quote(name), "of",
                          quote(shard));
        MOLE_CHECK_FORMAT(found->second == place, source, "tensor", quote(name), "is in", quote(shard),
                          "too, beside the file that the index gives");
      }
    }
  }

  void open_shard(const std::filesystem::path& folder, const std::string& shard, const std::string& source) {
    constexpr std::string_view end = ".safetensors";
    const bool plain =
        shard.find_first_of(std::string_view("/\\\0", 3)) == shard.npos && shard.size() > end.size();
    MOLE_CHECK_FORMAT(plain && shard.ends_with(end), source, quote(shard),
                      "should be the name of a safetensors file in the same folder");
    const auto path = folder / shard;
    MOLE_CHECK_FORMAT(detail::file_exists(path), source, "the file", quote(shard),
                      "is not there: download all files of the model");
    files_.emplace_back(path);
  }

  std::filesystem::path path_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::size_t> places_;
};

}  // namespace mole
