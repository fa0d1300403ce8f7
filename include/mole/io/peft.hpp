#pragma once
// PEFT LoRA adapters: a folder with adapter_config.json and adapter_model.safetensors.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/fingerprint.hpp>
#include <mole/core/shape.hpp>
#include <mole/io/atomic_file.hpp>
#include <mole/io/dtype.hpp>
#include <mole/io/json.hpp>
#include <mole/io/lora_config.hpp>
#include <mole/io/lora_rules.hpp>
#include <mole/io/safetensors.hpp>

namespace mole {

/// One adapted linear map: E(x) = scale (x A^T) B^T. Its numbers stay in the mapped file until they are read.
/// Of a convolution, x is its patches: A is stored [rank, C, kh, kw] and B [d_out, rank, 1, 1].
struct LoraEntry {
  std::string slot;  ///< the checkpoint's name of the module, such as encoder.block.0.layer.0.SelfAttention.q
  Index rank = 0;
  double scale = 0;
  bool fan_in_fan_out = false;  ///< the base's W is stored [d_in, d_out]; A and B are not transposed
  TensorView a, b;              ///< [rank, d_in] and [d_out, rank]
  std::string a_name, b_name;
  std::shared_ptr<const SafetensorsFile> file;
  std::string digest;  ///< of the stored bytes of A and B when the adapter was loaded

  Index d_in() const { return a.shape.size(1, a.shape.rank()); }
  Index d_out() const { return b.shape[0]; }
  /// Of the bytes as they are now.
  std::string stored_digest() const {
    Fingerprint now;
    for (const TensorView* view : {&a, &b}) now.add({view->data, static_cast<std::size_t>(view->bytes)});
    return now.hex();
  }
  /// Throws FormatError where the file was overwritten in place since it was loaded.
  void check_unchanged() const {
    MOLE_CHECK_FORMAT(
        stored_digest() == digest, message(file->path()) + ":", "slot", quote(slot),
        "was overwritten after the adapter was loaded: load it again. To replace an adapter in use, write "
        "a new file and rename it over the old one, as save_adapter() does");
  }
  /// A, [rank, d_in], row-major.
  template <HostNumber T>
  std::vector<T> read_a() const {
    return file->template read<T>(a_name);
  }
  /// B, [d_out, rank], row-major.
  template <HostNumber T>
  std::vector<T> read_b() const {
    return file->template read<T>(b_name);
  }
};

/// A trained LoRA adapter.
struct Adapter {
  std::string name;
  LoraConfig config;
  std::map<std::string, LoraEntry> entries;  ///< by slot
  std::string digest;                        ///< 16 hex digits over slots, shapes, scales and stored bytes
  std::vector<std::string> warnings;  ///< NaN or infinite weights, unknown options, slots PEFT would skip
};

/// One adapted linear map to save: a is A [rank, d_in], b is B [d_out, rank], both row-major. Of a
/// convolution the kernel says how they are stored, [rank, C, kh, kw] and [d_out, rank, 1, 1].
template <HostNumber T>
struct HostLora {
  std::string slot;
  Index rank = 0, d_in = 0, d_out = 0;
  std::vector<T> a, b;
  Shape kernel = {};  ///< [kh, kw]; of rank 0: a linear layer

  Shape a_shape() const {
    return kernel.rank() == 0 ? Shape{rank, d_in} : Shape{rank, d_in / kernel.size(), kernel[0], kernel[1]};
  }
  Shape b_shape() const { return kernel.rank() == 0 ? Shape{d_out, rank} : Shape{d_out, rank, 1, 1}; }
};

namespace detail {

inline constexpr std::string_view peft_prefix = "base_model.model.";
inline constexpr std::size_t max_slot_name = 500;
// The largest factor entry and the largest entry of s B A that it may come to: beyond, sums of squares
// overflow a double.
inline constexpr double max_lora_change = 1e100;

// `base_model.model.SLOT.lora_A.weight`, or the same with an adapter's name before `weight`.
inline std::pair<std::string, char> split_lora_name(const std::string& source, const std::string& name) {
  const auto where = [&] { return source + " tensor " + quote(name); };
  MOLE_CHECK_FORMAT(name.size() <= max_slot_name, source, "a tensor's name is longer than", max_slot_name,
                    "bytes:", quote(name));
  MOLE_CHECK_FORMAT(name.find("lora_embedding_") == name.npos, where(),
                    "adapts an embedding, which is not supported: only linear layers are");
  MOLE_CHECK_FORMAT(name.find("lora_magnitude_vector") == name.npos, where(),
                    "belongs to DoRA, which is not supported");
  MOLE_CHECK_FORMAT(name.starts_with(peft_prefix), where(), "should begin with", peft_prefix);
  for (const char factor : {'A', 'B'}) {
    for (const std::string_view end : {".weight", ".default.weight"}) {
      const std::string suffix = std::string(".lora_") + factor + std::string(end);
      if (name.ends_with(suffix) && name.size() > peft_prefix.size() + suffix.size())
        return {name.substr(peft_prefix.size(), name.size() - peft_prefix.size() - suffix.size()), factor};
    }
  }
  constexpr std::string_view base = ".base_layer.weight";
  if (name.ends_with(base) && name.size() > peft_prefix.size() + base.size()) {
    const auto module = name.substr(peft_prefix.size(), name.size() - peft_prefix.size() - base.size());
    throw FormatError(
        message(where(), "is the base's own weight of", quote(module),
                ", which PEFT stores where an output or embedding layer is adapted; only the linear "
                "layers inside the model can be: train the adapter without",
                quote(module)));
  }
  MOLE_CHECK_FORMAT(
      !name.ends_with(".weight") || name.find(".lora_") != name.npos, where(),
      "is no factor of a LoRA but a whole weight of the base, as save_embedding_layers stores it; "
      "save the adapter with save_embedding_layers=False");
  throw FormatError(
      message(where(), "is no factor of a LoRA: expected SLOT.lora_A.weight or SLOT.lora_B.weight"));
}

// The largest finite |value|, and whether all are finite.
struct Extent {
  double largest = 0;
  bool finite = true;
};

inline Extent extent_of(const TensorView& view) {
  constexpr Index chunk = 4096;
  std::vector<double> values(static_cast<std::size_t>(std::min(chunk, view.shape.size())));
  Extent extent;
  for (Index first = 0; first < view.shape.size(); first += chunk) {
    const Index n = std::min(chunk, view.shape.size() - first);
    decode(view.dtype, view.data + first * dtype_size(view.dtype), n, values.data());
    for (Index i = 0; i < n; ++i) {
      const double value = std::abs(values[static_cast<std::size_t>(i)]);
      if (is_finite(value))
        extent.largest = std::max(extent.largest, value);
      else
        extent.finite = false;
    }
  }
  return extent;
}

template <class Where>
void check_lora_entry(const LoraEntry& entry, Where where) {
  MOLE_CHECK_FORMAT(!entry.a_name.empty() && !entry.b_name.empty(), where(),
                    "has lora_" + std::string(entry.a_name.empty() ? "B but no lora_A" : "A but no lora_B"));
  const bool conv = entry.a.shape.rank() == 4 && entry.b.shape.rank() == 4 && entry.b.shape[2] == 1 &&
                    entry.b.shape[3] == 1;
  for (const auto& [name, view] : {std::pair("lora_A", entry.a), std::pair("lora_B", entry.b)}) {
    MOLE_CHECK_FORMAT((view.shape.rank() == 2 || conv) && view.shape.size() > 0, where(), name,
                      "should be a matrix and has shape", view.shape,
                      "(only linear layers and convolutions are supported)");
    MOLE_CHECK_FORMAT(is_floating(view.dtype), where(), name, "should hold real numbers and holds",
                      view.dtype);
  }
  MOLE_CHECK_FORMAT(entry.a.shape[0] == entry.b.shape[1], where(), "lora_A", entry.a.shape, "and lora_B",
                    entry.b.shape, "have different ranks");
}

// Rank and scale by the rules, and what the numbers come to. What is odd but no error goes to `warnings`. Returns
// whether PEFT would adapt the slot.
inline bool settle_lora_entry(LoraEntry& entry, const LoraConfig& config, LoraRules& rules,
                              const std::string& source, std::vector<std::string>& warnings) {
  const auto where = [&] { return source + " slot " + quote(entry.slot); };
  check_lora_entry(entry, where);
  entry.rank = entry.a.shape[0];
  const auto said = rules.rank(entry.slot);
  MOLE_CHECK_FORMAT(!said || *said == entry.rank, where(), "has rank", entry.rank,
                    "where adapter_config.json says", *said, "(r and rank_pattern)");
  entry.scale = lora_scale(rules.alpha(entry.slot), entry.rank, config.rslora);
  double change = std::abs(entry.scale) * static_cast<double>(entry.rank);
  for (const auto& [tensor, view] : {std::pair(entry.a_name, entry.a), std::pair(entry.b_name, entry.b)}) {
    const Extent extent = extent_of(view);
    if (!extent.finite)
      warnings.push_back(message(source, "tensor", quote(tensor), "holds NaN or infinite values"));
    MOLE_CHECK_FORMAT(extent.largest <= max_lora_change, source, "tensor", quote(tensor), "holds",
                      extent.largest, "; at most", max_lora_change, "is read");
    change *= extent.largest;
  }
  MOLE_CHECK_FORMAT(change <= max_lora_change, where(), "changes the weight by up to", change,
                    "(scale x rank x factors); at most", max_lora_change, "is read");
  return rules.is_target(entry.slot) != false;
}

inline std::string adapter_digest(const Adapter& adapter) {
  Fingerprint digest;
  const auto number = [&](const auto& value) { digest.add(std::as_bytes(std::span(&value, 1))); };
  for (const auto& [slot, entry] : adapter.entries) {
    digest.add(std::as_bytes(std::span(slot.c_str(), slot.size() + 1)));
    number(entry.rank);
    number(entry.d_in());
    number(entry.d_out());
    number(entry.scale);
    for (const TensorView* view : {&entry.a, &entry.b}) {
      number(static_cast<std::int32_t>(view->dtype));
      digest.add({view->data, static_cast<std::size_t>(view->bytes)});
    }
  }
  return digest.hex();
}

inline LoraRules rules_to_save(const LoraConfig& config) {
  try {
    return LoraRules(config);
  } catch (const FormatError& error) {
    throw ArgumentError(message("save_adapter:", error.what()));
  }
}

// The last part of the path, also of `folder/` and `.`.
inline std::string folder_name(const std::filesystem::path& folder) {
  std::error_code reason;
  auto whole = std::filesystem::weakly_canonical(folder, reason);
  if (reason) whole = folder.lexically_normal();
  return whole.has_filename() ? whole.filename().string() : whole.parent_path().filename().string();
}

}  // namespace detail

/// Opens the adapter in a folder; `name` is the folder's unless given. The weights stay in the mapped file,
/// which is read through for the digest and to look for NaN. Throws FormatError, naming file and tensor or
/// field, for whatever is not a plain LoRA of linear layers (see read_lora_config), for a factor without the
/// other, ranks that disagree, an adapter that is empty, files of two saves; Error where a file cannot be read.
inline Adapter load_adapter(const std::filesystem::path& folder, std::string name = "") {
  const auto config_path = folder / "adapter_config.json", model_path = folder / "adapter_model.safetensors";
  const auto missing = [](const std::filesystem::path& path) { return !detail::file_exists(path); };
  MOLE_CHECK_AS(Error, !missing(config_path), folder, "is no PEFT adapter: it holds no adapter_config.json");
  MOLE_CHECK_AS(Error, !missing(model_path) || missing(folder / "adapter_model.bin"), folder,
                "holds adapter_model.bin, which is not read: save the adapter as safetensors");
  MOLE_CHECK_AS(Error, !missing(model_path), folder,
                "is no PEFT adapter: it holds no adapter_model.safetensors");

  Adapter adapter;
  adapter.name = name.empty() ? detail::folder_name(folder) : std::move(name);
  const auto read_config = [&](const std::filesystem::path& path) {
    adapter.warnings.clear();
    auto config = read_lora_config(path, adapter.warnings);
    auto digest = detail::lora_config_digest(config);
    return std::pair(std::move(config), std::move(digest));
  };
  // First without the weights: what is no plain LoRA is refused by its configuration.
  read_config(config_path);
  const auto file = std::make_shared<const SafetensorsFile>(model_path);
  const std::string source = message(model_path) + ":";
  adapter.config = detail::read_paired_config(config_path, model_path, file->metadata(), read_config);
  for (const auto& tensor : file->names()) {
    // VeLoRA's projection serves the backward pass of its training alone.
    if (tensor.find(".lora_velora_embed") != tensor.npos) continue;
    const auto [slot, factor] = detail::split_lora_name(source, tensor);
    LoraEntry& entry = adapter.entries[slot];
    std::string& taken = factor == 'A' ? entry.a_name : entry.b_name;
    MOLE_CHECK_FORMAT(taken.empty(), source, "tensors", quote(taken), "and", quote(tensor),
                      "are the same factor");
    taken = tensor;
    (factor == 'A' ? entry.a : entry.b) = file->at(tensor);
  }
  MOLE_CHECK_FORMAT(!adapter.entries.empty(), source, "the adapter is empty: it holds no lora_A and lora_B");

  constexpr std::size_t told = 100;  // of what may be said of each slot
  std::size_t skipped = 0;
  // What the rules throw is the configuration's fault.
  try {
    LoraRules rules(adapter.config);
    for (auto& [slot, entry] : adapter.entries) {
      entry.slot = slot;
      entry.file = file;
      entry.fan_in_fan_out = adapter.config.fan_in_fan_out;
      if (detail::settle_lora_entry(entry, adapter.config, rules, source, adapter.warnings)) continue;
      if (++skipped <= told)
        adapter.warnings.push_back(
            message(source, "slot", quote(slot),
                    "is not among target_modules of adapter_config.json: PEFT would skip it"));
    }
    if (skipped > told)
      adapter.warnings.push_back(
          message(source, skipped - told, "further slots are not among target_modules"));
    for (const auto& warning : rules.warnings())
      adapter.warnings.push_back(message(message(config_path) + ":", warning));
  } catch (const FormatError& error) {
    const std::string text = error.what();
    throw FormatError(text.starts_with(source) ? text : message(message(config_path) + ":", text));
  }
  for (auto& [slot, entry] : adapter.entries) entry.digest = entry.stored_digest();
  adapter.digest = detail::adapter_digest(adapter);
  return adapter;
}

/// Saves an adapter that PEFT and load_adapter() read, its weights stored as `stored_as`. The folder is made
/// where there is none. An empty target_modules becomes the entries' slots. Both files are complete on the
/// disk before either is put in place, and load_adapter() refuses one of them beside another. Throws ArgumentError for
/// entries that contradict each other or `config`; NumericError for numbers that are not finite; Error where a file cannot
/// be written.
template <HostNumber T>
void save_adapter(const std::filesystem::path& folder, LoraConfig config,
                  const std::vector<HostLora<T>>& entries, Dtype stored_as) {
  MOLE_CHECK_ARG(!entries.empty(), "save_adapter: there is no entry to save");
  MOLE_CHECK_ARG(is_floating(stored_as), "save_adapter: weights cannot be stored as", stored_as);
  if (config.target_modules.empty() && config.target_regex.empty())
    for (const auto& entry : entries) config.target_modules.push_back(entry.slot);

  MOLE_CHECK_ARG(std::abs(config.alpha) <= max_lora_alpha, "save_adapter: alpha is", config.alpha,
                 "; its size can be at most", max_lora_alpha);
  for (const auto& [key, alpha] : config.alpha_pattern)
    MOLE_CHECK_ARG(std::abs(alpha) <= max_lora_alpha, "save_adapter: alpha_pattern", quote(key), "is", alpha,
                   "; its size can be at most", max_lora_alpha);
  LoraRules rules = detail::rules_to_save(config);
  SafetensorsWriter writer;
  writer.metadata("format", "pt");
  writer.metadata(detail::config_digest_key, detail::lora_config_digest(config));
  for (const auto& entry : entries) {
    const std::string where = "save_adapter: slot " + quote(entry.slot);
    MOLE_CHECK_ARG(!entry.slot.empty() && entry.slot.size() < detail::max_slot_name - 50, where,
                   "has an empty name or one that is too long");
    MOLE_CHECK_ARG(entry.rank > 0 && entry.d_in > 0 && entry.d_out > 0, where, "has an empty factor");
    const auto said = rules.rank(entry.slot);
    MOLE_CHECK_ARG(!said || *said == entry.rank, where, "has rank", entry.rank, "where the config says",
                   *said, "- name the slot in rank_pattern");
    MOLE_CHECK_ARG(rules.is_target(entry.slot) != false, where,
                   "is not among target_modules: PEFT would skip it");
    const std::string start = std::string(detail::peft_prefix) + entry.slot;
    MOLE_CHECK_ARG(entry.kernel.rank() == 0 || (entry.kernel.rank() == 2 && entry.kernel.size() > 0 &&
                                                entry.d_in % entry.kernel.size() == 0),
                   where, "has a kernel", entry.kernel, "that does not fit", entry.d_in, "inputs");
    for (const auto* factor : {&entry.a, &entry.b})
      MOLE_CHECK_AS(NumericError,
                    std::all_of(factor->begin(), factor->end(), [](T x) { return is_finite(x); }), where,
                    "holds numbers that are not finite");
    writer.add(start + ".lora_A.weight", stored_as, entry.a_shape(), entry.a);
    writer.add(start + ".lora_B.weight", stored_as, entry.b_shape(), entry.b);
  }

  const std::string text = detail::json_text(lora_config_json(config), 2) + "\n";
  MOLE_CHECK_ARG(text.size() <= max_config_bytes, "save_adapter: adapter_config.json would have", text.size(),
                 "bytes; at most", max_config_bytes, "are read again");
  std::error_code reason;
  std::filesystem::create_directories(folder, reason);
  MOLE_CHECK_AS(Error, !reason, folder, "cannot be made:", reason.message());
  AtomicFile weights(folder / "adapter_model.safetensors"), settings(folder / "adapter_config.json");
  writer.write(weights);
  settings.write(text);
  AtomicFile::commit_together({&weights, &settings});
}

}  // namespace mole
