#pragma once
// The parameters of a model from a checkpoint that may call them by other names, and back.

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <mole/autodiff/tensor.hpp>
#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/io/atomic_file.hpp>
#include <mole/io/bitsandbytes.hpp>
#include <mole/io/checkpoint.hpp>
#include <mole/io/config_digest.hpp>
#include <mole/io/json.hpp>
#include <mole/nn/packed_weight.hpp>

namespace mole {

/// How a model's weights are kept.
struct LoadOptions {
  /// Weights that a file stores in blocks of a few bits stay so and are multiplied so (PackedWeight): on the CPU in the
  /// mapped file, on a GPU in its memory. They can be mixed with experts, but not trained, merged into or saved. Else
  /// all become numbers.
  bool keep_packed = false;
};

/// What a checkpoint may do that the model does not say.
struct ParameterNames {
  /// The names that a parameter may have in the file, the first that is there counts. Unset: its own alone.
  std::function<std::vector<std::string>(const std::string& name)> in_file = {};
  /// Whether a tensor of the file may be left over. Unset: none but those without numbers, by which some programs
  /// mark a file.
  std::function<bool(const std::string& name)> ignored = {};
  std::string model = "model";  ///< what messages call it
  /// Whether a shape may have axes of 1 more or fewer at its end, as that of a 1 x 1 convolution.
  bool ones_at_end = false;
  /// What bitsandbytes has made of a tensor of the file. Unset: nothing.
  std::function<BitsandbytesWeight(const std::string& stored)> packed = {};
  LoadOptions options = {};
};

namespace detail {

/// The shape without the axes of 1 at its end: a 1 x 1 convolution is stored with or without them.
inline std::vector<Index> without_trailing_ones(const Shape& shape) {
  std::vector<Index> extents(shape.begin(), shape.end());
  while (extents.size() > 2 && extents.back() == 1) extents.pop_back();
  return extents;
}

inline std::string stored_name(const Checkpoint& file, const std::string& name, const ParameterNames& names) {
  const auto list = names.in_file ? names.in_file(name) : std::vector<std::string>{name};
  for (const auto& one : list)
    if (file.contains(one)) return one;
  throw FormatError(message(message(file.path()) + ":", "tensor", quote(list.front()), "is missing, which a",
                            names.model, "of this config.json has"));
}

/// Throws FormatError unless the file has the tensor, in this shape and in real numbers.
inline void check_parameter(const Checkpoint& file, const std::string& stored, const Shape& shape,
                            bool ones_at_end = false) {
  const std::string source = message(file.file_of(stored).path()) + ":";
  const auto& view = file.at(stored);
  const bool fits = view.shape == shape ||
                    (ones_at_end && without_trailing_ones(view.shape) == without_trailing_ones(shape));
  MOLE_CHECK_FORMAT(fits, source, "tensor", quote(stored), "has shape", view.shape, "where config.json says",
                    shape);
  MOLE_CHECK_FORMAT(is_floating(view.dtype), source, "tensor", quote(stored), "holds", view.dtype,
                    ", not real numbers: save the model unquantized");
}

/// Keeps a parameter packed where the model has a place for it so, else as numbers.
template <class M, class T, class B>
void set_packed(M& model, const std::string& name, const std::shared_ptr<const PackedRows>& rows,
                const LoadOptions& options, Tensor<T, B>& tensor) {
  if constexpr (requires { model.keep_packed(name, rows); })
    if (options.keep_packed && model.keep_packed(name, rows)) return;
  tensor = unpacked<T, B>(*rows);
}

/// Throws FormatError unless a packed matrix has this shape.
inline void check_packed(const std::string& where, const PackedRows& rows, const Shape& shape) {
  MOLE_CHECK_FORMAT(rows.shape() == shape, where, "has shape", rows.shape(), "where config.json says", shape);
}

}  // namespace detail

namespace detail {

/// Calls look(). A FormatError that it throws goes to fault(), from within the handler that caught it.
template <class F, class Look>
void catch_fault(F& fault, const Look& look) {
  try {
    look();
  } catch (const FormatError& error) {
    fault(error);
  }
}

/// Looks at each tensor that model.visit() shows, then at those that are left over in the file, and reads none. What is
/// wrong goes to fault, see catch_fault(). Returns the weights that stay packed, by parameter.
template <class M, class F>
std::map<std::string, std::shared_ptr<const PackedRows>> compared_parameters(M& model, const Checkpoint& file,
                                                                             const ParameterNames& names,
                                                                             F fault) {
  using T = typename M::Scalar;
  using B = typename M::Device;
  std::set<std::string> used;
  std::map<std::string, std::shared_ptr<const PackedRows>> packed;
  model.visit([&](const std::string& name, const Shape& shape, Tensor<T, B>&) {
    catch_fault(fault, [&] {
      const auto stored = stored_name(file, name, names);
      used.insert(stored);
      if (const auto weight = names.packed ? names.packed(stored) : BitsandbytesWeight(); weight.rows) {
        used.insert(weight.parts.begin(), weight.parts.end());
        check_packed(message(file.file_of(stored).path()) + ": tensor " + quote(stored), *weight.rows, shape);
        packed[name] = weight.rows;
        return;
      }
      check_parameter(file, stored, shape, names.ones_at_end);
    });
  });
  for (const auto& name : file.names())
    catch_fault(fault, [&] {
      MOLE_CHECK_FORMAT(used.count(name) > 0 || (names.ignored && names.ignored(name)) || file.is_empty(name),
                        message(file.file_of(name).path()) + ":", "tensor", quote(name), "has no place in a",
                        names.model, "of this config.json");
    });
  return packed;
}

/// See check_parameters(); returns the weights that stay packed, by parameter.
template <class M>
std::map<std::string, std::shared_ptr<const PackedRows>> checked_parameters(M& model, const Checkpoint& file,
                                                                            const ParameterNames& names) {
  return compared_parameters(model, file, names, [](const FormatError&) { throw; });
}

}  // namespace detail

/// Looks at every tensor that model.visit() shows and reads none.
/// Throws FormatError, naming file and tensor, for a tensor that is missing, of another shape, no real numbers, or left
/// over.
template <class M>
void check_parameters(M& model, const Checkpoint& file, const ParameterNames& names = {}) {
  detail::checked_parameters(model, file, names);
}

/// How many faults are listed: a configuration may name a million tensors that its file lacks.
inline constexpr std::size_t most_faults = 1000;

namespace detail {

/// Calls look(fault), where fault(error) adds a FormatError to the list and ends look() once that is full.
template <class Look>
void list_faults(std::vector<std::string>& faults, const Look& look) {
  struct Full {};
  try {
    look([&](const FormatError& error) {
      faults.emplace_back(error.what());
      if (faults.size() >= most_faults) throw Full();
    });
  } catch (const Full&) {
  }
}

}  // namespace detail

/// What check_parameters() refuses, most_faults of it at most.
template <class M>
std::vector<std::string> parameter_faults(M& model, const Checkpoint& file,
                                          const ParameterNames& names = {}) {
  std::vector<std::string> faults;
  detail::list_faults(faults,
                      [&](const auto& fault) { detail::compared_parameters(model, file, names, fault); });
  return faults;
}

/// Fills every tensor that model.visit() shows. All are looked at before any is read; NaN or infinite numbers
/// are told in *warnings where given.
/// Throws as check_parameters(); Error where the file cannot be read.
template <class M>
void load_parameters(M& model, const Checkpoint& file, const ParameterNames& names = {},
                     std::vector<std::string>* warnings = nullptr) {
  using T = typename M::Scalar;
  using B = typename M::Device;
  const auto packed = detail::checked_parameters(model, file, names);
  // A tensor's pages are given back once it is read: else file and weights are in memory side by side.
  model.visit([&](const std::string& name, const Shape& shape, Tensor<T, B>& tensor) {
    if (const auto found = packed.find(name); found != packed.end())
      return detail::set_packed(model, name, found->second, names.options, tensor);
    const auto stored = detail::stored_name(file, name, names);
    const auto values = file.template read<T>(stored);
    file.file_of(stored).forget(stored);
    const auto finite = [](T value) { return is_finite(static_cast<double>(value)); };
    if (warnings && !std::all_of(values.begin(), values.end(), finite))
      warnings->push_back(message(message(file.file_of(stored).path()) + ":", "tensor", quote(stored),
                                  "holds NaN or infinite values"));
    tensor = Tensor<T, B>::from(shape, values);
  });
}

namespace detail {

/// A model without weights, its folder's, and what they are called there.
template <class M>
struct OpenedModel {
  M model;
  std::shared_ptr<const Checkpoint> file;
  ParameterNames names;
};

/// The model with its weights.    Throws as load_parameters().
template <class M>
M loaded(OpenedModel<M> opened, std::vector<std::string>* warnings) {
  load_parameters(opened.model, *opened.file, opened.names, warnings);
  return std::move(opened.model);
}

/// A folder's configuration, by read(config.json), and its weights. Weights that name a digest go with no other
/// configuration: see read_paired_config().    Throws what read() and Checkpoint throw; FormatError for files of two
/// saves.
template <class Read, class Digest>
auto open_folder(const std::filesystem::path& folder, const std::string& stem, Read read, Digest digest) {
  const auto path = folder / "config.json";
  const auto read_config = [&](const std::filesystem::path& from) {
    auto config = read(from);
    auto own = digest(config);
    return std::pair(std::move(config), std::move(own));
  };
  read_config(path);  // what it refuses comes before the weights
  Checkpoint file(folder, stem);
  auto config = read_paired_config(path, file.path(), file.metadata(), read_config);
  return std::pair(std::move(config), std::move(file));
}

}  // namespace detail

/// Writes every tensor that model.visit() shows to FOLDER/STEM.safetensors, and `config` to
/// FOLDER/config.json; the folder is made where there is none. Both files are complete on the disk before
/// either is put in place. `digest`, unless empty, is named in the weights: that of the configuration's fields that the
/// model reads, by which its loader tells a pair of files from files of two saves.
/// Throws Error where a file cannot be written.
template <class M>
void save_parameters(const std::filesystem::path& folder, const std::string& stem, M& model,
                     const Json& config, Dtype stored_as, const std::string& digest = "") {
  using T = typename M::Scalar;
  using B = typename M::Device;
  SafetensorsWriter writer;
  writer.metadata("format", "pt");
  if (!digest.empty()) writer.metadata(detail::config_digest_key, digest);
  model.visit([&](const std::string& name, const Shape& shape, Tensor<T, B>& tensor) {
    writer.add(name, stored_as, shape, tensor.to_host());
  });
  std::error_code reason;
  std::filesystem::create_directories(folder, reason);
  MOLE_CHECK_AS(Error, !reason, folder, "cannot be made:", reason.message());
  AtomicFile weights(folder / (stem + ".safetensors")), settings(folder / "config.json");
  writer.write(weights);
  settings.write(detail::json_text(config, 2) + "\n");
  AtomicFile::commit_together({&weights, &settings});
}

}  // namespace mole
