#pragma once
// LoRAs of Stable Diffusion in the files that their world has: PEFT folders, diffusers' pytorch_lora_weights
// in its four spellings, kohya's and LyCORIS LoCon's.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mole/io/lora_set.hpp>
#include <mole/io/peft.hpp>
#include <mole/io/save_lora_set.hpp>
#include <mole/models/diffusion/lora_names.hpp>

namespace mole {

/// One LoRA for the parts of a pipeline. A part that it does not adapt has no slots.
struct DiffusionLora {
  LoraSet unet, text;
  std::vector<std::string> warnings;  ///< NaN or infinite weights and the like
};

namespace detail {

/// The factors of one module in a file.
struct LoraTensors {
  std::string down, up, alpha;  ///< the tensors' names; alpha may be empty
  Index rank = 0;
  double scale = 1;
  std::string digest;  ///< of the factors' stored bytes when the file was read

  std::string stored_digest(const SafetensorsFile& file) const {
    Fingerprint sum;
    for (const auto* name : {&down, &up}) {
      const auto& view = file.at(*name);
      sum.add({view.data, static_cast<std::size_t>(view.bytes)});
    }
    return sum.hex();
  }
};

using LoraModules = std::map<std::string, LoraTensors>;

/// alpha and rank by module where the file's metadata says so.
class LoraMetadata {
 public:
  /// diffusers stores a PEFT configuration a part, its keys behind the part's name.
  LoraMetadata(const SafetensorsFile& file, const std::string& source, const std::string& part) {
    const auto found = file.metadata().find("lora_adapter_metadata");
    if (found == file.metadata().end()) return;
    const std::string where = source + " metadata lora_adapter_metadata:";
    const auto json = parse_json(found->second, where);
    MOLE_CHECK_FORMAT(json.is_object(), where, "expected a JSON object");
    auto own = json_object();
    for (const auto& [key, value] : fields_of(json))
      if (key.starts_with(part + ".")) set_field(own, key.substr(part.size() + 1), value);
    if (own.empty()) return;
    if (!find_field(own, "peft_type")) set_field(own, {"peft_type", "LORA"});
    refuse_lora_variants(own, where);
    if (const auto* rank = find_field(own, "r")) config_.rank = lora_rank(where, "r", *rank);
    if (const auto* alpha = find_field(own, "lora_alpha"))
      config_.alpha = lora_alpha(where, "lora_alpha", *alpha);
    const auto* const rslora = find_field(own, "use_rslora");
    config_.rslora = rslora && truthy(*rslora);
    read_lora_patterns(own, where, config_);
    rules_.emplace(config_);
  }

  /// The scale of a module of that rank; alpha = rank without metadata.
  double scale(const std::string& module, Index rank) {
    return rules_ ? lora_scale(rules_->alpha(module), rank, config_.rslora) : 1;
  }

 private:
  LoraConfig config_;
  std::optional<LoraRules> rules_;
};

/// The largest change that a factor pair may come to; warnings for numbers that are not finite.
inline void check_lora_size(const SafetensorsFile& file, const std::string& source, const std::string& module,
                            const LoraTensors& tensors, std::vector<std::string>& warnings) {
  double change = std::abs(tensors.scale) * static_cast<double>(tensors.rank);
  for (const auto& name : {tensors.down, tensors.up}) {
    const auto extent = extent_of(file.at(name));
    if (!extent.finite)
      warnings.push_back(message(source, "tensor", quote(name), "holds NaN or infinite values"));
    change *= extent.largest;
  }
  MOLE_CHECK_FORMAT(change <= max_lora_change, source, "module", quote(module), "changes the weight by up to",
                    change, "(scale x rank x factors); at most", max_lora_change, "is read");
}

/// Rank, shapes and scale of a module. A stored [r, i, 1, 1] fits a linear layer, and [r, i] a 1x1
/// convolution.
inline void settle_lora_module(const SafetensorsFile& file, const std::string& source,
                               const std::string& module, const SlotCatalogue& slots, LoraMetadata& metadata,
                               LoraTensors& tensors) {
  const auto where = [&] { return source + " module " + quote(module); };
  MOLE_CHECK_FORMAT(!tensors.down.empty() && !tensors.up.empty(), where(), "has",
                    std::string(tensors.down.empty() ? tensors.up.empty() ? "an alpha but no factors"
                                                                          : "an up factor but no down factor"
                                                     : "a down factor but no up factor"));
  const auto slot = slots.find(module);
  MOLE_CHECK_FORMAT(slot != slots.end(), source, "tensor", quote(tensors.down), "adapts", module,
                    "which this model does not have; it was trained for another base");
  const auto &down = file.at(tensors.down), &up = file.at(tensors.up);
  for (const auto* view : {&down, &up})
    MOLE_CHECK_FORMAT(is_floating(view->dtype) && view->shape.rank() >= 2 && view->shape.size() > 0, where(),
                      "has a factor", view->shape, "of", view->dtype, "- expected real numbers in matrices");
  tensors.rank = down.shape[0];
  const auto trimmed = [](const Shape& shape) {
    std::vector<Index> extents(shape.begin(), shape.end());
    while (extents.size() > 2 && extents.back() == 1) extents.pop_back();
    return extents;
  };
  const auto& known = slot->second;
  Shape wanted = known.stored.with(0, tensors.rank);
  MOLE_CHECK_FORMAT(trimmed(down.shape) == trimmed(wanted) &&
                        trimmed(up.shape) == std::vector<Index>({known.d_out, tensors.rank}),
                    where(), "has factors", down.shape, "and", up.shape, "where this model's weight is",
                    known.stored, "; it was trained for another base");
  tensors.scale = metadata.scale(module, tensors.rank);
  if (tensors.alpha.empty()) return;
  MOLE_CHECK_FORMAT(file.at(tensors.alpha).shape.size() == 1, where(), "has an alpha of shape",
                    file.at(tensors.alpha).shape, "; expected one number");
  const double alpha = file.read<double>(tensors.alpha).front();
  MOLE_CHECK_FORMAT(is_finite(alpha) && std::abs(alpha) <= max_lora_alpha, where(), "has alpha", alpha,
                    "; at most", max_lora_alpha, "is read");
  tensors.scale = alpha / static_cast<double>(tensors.rank);
}

/// The modules of a part as an expert. The factors stay in the mapped file until they are asked for: then they must be
/// those of the digest, or it is a FormatError.
inline LoraSet lora_set_of(const std::shared_ptr<const SafetensorsFile>& file, std::string name,
                           const LoraModules& modules) {
  LoraSet set{std::move(name), "", {}, {}};
  Fingerprint digest;
  const auto number = [&](const auto& value) { digest.add(std::as_bytes(std::span(&value, 1))); };
  for (const auto& [module, tensors] : modules) {
    set.slots.push_back(module);
    digest.add(std::as_bytes(std::span(module.c_str(), module.size() + 1)));
    number(tensors.rank);
    number(tensors.scale);
    for (const auto& one : {tensors.down, tensors.up}) {
      const auto& view = file->at(one);
      number(static_cast<std::int32_t>(view.dtype));
      digest.add({view.data, static_cast<std::size_t>(view.bytes)});
    }
  }
  set.digest = digest.hex();
  const auto kept = std::make_shared<LoraModules>(modules);
  for (auto& [module, tensors] : *kept) tensors.digest = tensors.stored_digest(*file);
  set.factors = [file, kept, name = set.name](const std::string& slot) {
    const auto found = kept->find(slot);
    MOLE_CHECK_ARG(found != kept->end(), "adapter", name, "does not adapt", slot);
    const auto& tensors = found->second;
    const Index rank = tensors.rank, d_out = file->at(tensors.up).shape[0],
                d_in = file->at(tensors.down).shape.size() / rank;
    LoraFactors factors{
        rank, d_in, d_out, tensors.scale, file->read<double>(tensors.down), file->read<double>(tensors.up)};
    // After they were read: what is overwritten later does no harm.
    MOLE_CHECK_FORMAT(
        tensors.stored_digest(*file) == tensors.digest, message(file->path()) + ":", "slot", quote(slot),
        "was overwritten after the LoRA was loaded: load it again. To replace a file in use, write "
        "the new one beside it and rename that over it");
    return factors;
  };
  return set;
}

inline DiffusionLora read_lora_file(const std::filesystem::path& path, const std::string& name,
                                    const SlotCatalogue& unet, const SlotCatalogue& text) {
  const auto file = std::make_shared<const SafetensorsFile>(path);
  const std::string source = message(path) + ":";
  const LoraKeys keys(unet, text);
  LoraModules modules[2];
  for (const auto& tensor : file->names()) {
    const auto key = keys.read(source, tensor);
    auto& entry = modules[static_cast<int>(key.part)][key.module];
    auto& taken = key.role == LoraRole::down ? entry.down : key.role == LoraRole::up ? entry.up : entry.alpha;
    MOLE_CHECK_FORMAT(taken.empty(), source, "tensors", quote(taken), "and", quote(tensor),
                      "are the same factor");
    taken = tensor;
  }
  MOLE_CHECK_FORMAT(!modules[0].empty() || !modules[1].empty(), source, "the file holds no LoRA");
  DiffusionLora lora;
  for (const auto part : {LoraPart::unet, LoraPart::text}) {
    const bool is_unet = part == LoraPart::unet;
    auto& own = modules[static_cast<int>(part)];
    LoraMetadata metadata(*file, source, is_unet ? "unet" : "text_encoder");
    for (auto& [module, tensors] : own) {
      settle_lora_module(*file, source, module, is_unet ? unet : text, metadata, tensors);
      check_lora_size(*file, source, module, tensors, lora.warnings);
    }
    (is_unet ? lora.unet : lora.text) = lora_set_of(file, name, own);
  }
  return lora;
}

/// A PEFT folder's adapter; the text encoder's modules as CLIPModel calls them.
inline LoraSet read_peft_part(const std::filesystem::path& folder, const std::string& name, bool text,
                              std::vector<std::string>& warnings) {
  auto adapter = load_adapter(folder, name);
  warnings.insert(warnings.end(), adapter.warnings.begin(), adapter.warnings.end());
  auto set = lora_set(std::move(adapter));
  if (!text) return set;
  auto names = std::make_shared<std::map<std::string, std::string>>();
  for (auto& slot : set.slots) {
    const auto full = with_text_model(slot);
    (*names)[full] = slot;
    slot = full;
  }
  set.factors = [names, own = set.factors](const std::string& slot) {
    const auto found = names->find(slot);
    return own(found == names->end() ? slot : found->second);
  };
  return set;
}

}  // namespace detail

/// The LoRA at a path: a .safetensors file of diffusers, kohya or LoCon; a folder with
/// pytorch_lora_weights.safetensors or with one .safetensors file; a folder with PEFT's folders unet/ and
/// text_encoder/, either of which may be absent; or a PEFT folder of the UNet. `unet` and `text` list the
/// slots of the models that it is for (slot_catalogue). Scales: a module's alpha tensor counts first, then
/// diffusers' metadata; else alpha is the rank.
/// Throws FormatError, naming file and tensor, for whatever is no plain LoRA of these slots: LoHa, LoKr,
/// DoRA, full differences, Tucker cores, OFT, GLoRA, IA3, biases, parts of SDXL, a factor without the other,
/// other shapes, keys left over; Error where a file cannot be read.
inline DiffusionLora load_diffusion_lora(const std::filesystem::path& path, const SlotCatalogue& unet,
                                         const SlotCatalogue& text, std::string name = "") {
  namespace fs = std::filesystem;
  MOLE_CHECK_AS(Error, detail::file_exists(path), path, "is not there");
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) {
    MOLE_CHECK_FORMAT(path.extension() == ".safetensors", path,
                      "is no .safetensors file; pickles (.pt, .bin, .ckpt) are not read: convert it first");
    return detail::read_lora_file(path, name.empty() ? path.stem().string() : name, unet, text);
  }
  if (name.empty()) name = detail::folder_name(path);
  DiffusionLora lora;
  if (detail::file_exists(path / "adapter_config.json")) {
    lora.unet = detail::read_peft_part(path, name, false, lora.warnings);
    return lora;
  }
  for (const bool is_text : {false, true}) {
    const auto part = path / (is_text ? "text_encoder" : "unet");
    if (!detail::file_exists(part / "adapter_config.json")) continue;
    (is_text ? lora.text : lora.unet) = detail::read_peft_part(part, name, is_text, lora.warnings);
  }
  if (!lora.unet.slots.empty() || !lora.text.slots.empty()) return lora;
  std::vector<fs::path> files;
  std::error_code reason;
  for (const auto& entry : detail::entries_of(path, reason))
    if (entry.extension() == ".safetensors") files.push_back(entry);
  MOLE_CHECK_AS(Error, !reason, path, "cannot be listed:", reason.message());
  const auto usual = path / "pytorch_lora_weights.safetensors";
  if (detail::file_exists(usual)) files = {usual};
  MOLE_CHECK_AS(Error, files.size() == 1, path, "is no LoRA: expected unet/ or text_encoder/ with an",
                "adapter_config.json, pytorch_lora_weights.safetensors, or one .safetensors file; found",
                files.size());
  return detail::read_lora_file(files.front(), name, unet, text);
}

/// The same for the models of a pipeline.
template <class T, class B>
DiffusionLora load_diffusion_lora(const std::filesystem::path& path, const SlotTable<T, B>& unet,
                                  const SlotTable<T, B>& text, std::string name = "") {
  return load_diffusion_lora(path, slot_catalogue(unet), slot_catalogue(text), std::move(name));
}

namespace detail {

/// The factors of a part under `part`., and its PEFT configuration in `metadata`.
inline void add_lora_part(SafetensorsWriter& writer, Json& metadata, const std::string& part,
                          const LoraSet& set, const SlotCatalogue& slots, Dtype stored_as) {
  std::vector<HostLora<float>> entries;
  std::vector<double> alphas;
  for (const auto& name : set.slots) {
    const auto slot = slots.find(name);
    MOLE_CHECK_ARG(slot != slots.end(), "save_diffusers_lora: adapter", set.name, "adapts", name,
                   "which this model does not have");
    const auto f = set.factors(name);
    const auto& stored = slot->second.stored;
    entries.push_back({name,
                       f.rank,
                       f.d_in,
                       f.d_out,
                       {f.A.begin(), f.A.end()},
                       {f.B.begin(), f.B.end()},
                       stored.rank() == 4 ? Shape{stored[2], stored[3]} : Shape()});
    alphas.push_back(f.scale * static_cast<double>(f.rank));
  }
  LoraConfig config;
  config.task_type.clear();
  set_lora_scaling(config, entries, alphas);
  for (const auto& entry : entries) {
    config.target_modules.push_back(entry.slot);
    const std::string start = part + "." + entry.slot;
    writer.add(start + ".lora_A.weight", stored_as, entry.a_shape(), entry.a);
    writer.add(start + ".lora_B.weight", stored_as, entry.b_shape(), entry.b);
  }
  const auto json = lora_config_json(config);
  for (const auto& [key, value] : fields_of(json)) set_field(metadata, part + "." + key, value);
}

}  // namespace detail

/// Writes FOLDER/pytorch_lora_weights.safetensors as diffusers' load_lora_weights() takes it, with ranks and
/// alphas in its metadata. A part without slots is left out. `unet` and `text` list the slots of the models.
/// Throws ArgumentError for a LoRA that adapts nothing or a slot that the models do not have; Error where the
/// file cannot be written; and what the sets' factors() throw.
inline void save_diffusers_lora(const std::filesystem::path& folder, const DiffusionLora& lora,
                                const SlotCatalogue& unet, const SlotCatalogue& text,
                                Dtype stored_as = Dtype::F32) {
  MOLE_CHECK_ARG(!lora.unet.slots.empty() || !lora.text.slots.empty(),
                 "save_diffusers_lora: the LoRA adapts nothing");
  SafetensorsWriter writer;
  auto metadata = detail::json_object();
  if (!lora.unet.slots.empty()) detail::add_lora_part(writer, metadata, "unet", lora.unet, unet, stored_as);
  if (!lora.text.slots.empty())
    detail::add_lora_part(writer, metadata, "text_encoder", lora.text, text, stored_as);
  writer.metadata("format", "pt");
  writer.metadata("lora_adapter_metadata", detail::json_text(metadata, 2));
  std::error_code reason;
  std::filesystem::create_directories(folder, reason);
  MOLE_CHECK_AS(Error, !reason, folder, "cannot be made:", reason.message());
  writer.write(folder / "pytorch_lora_weights.safetensors");
}

/// Writes FOLDER/unet and FOLDER/text_encoder as PEFT loads them onto a UNet2DConditionModel and a
/// CLIPTextModel. A part without slots is left out. `unet` lists the slots of the model. text_model: whether
/// the text encoder's modules begin with text_model., as before transformers 5.
/// Throws ArgumentError for a LoRA that adapts nothing; Error where a file cannot be written; and what the
/// sets' factors() throw.
inline void save_peft_lora(const std::filesystem::path& folder, const DiffusionLora& lora,
                           const SlotCatalogue& unet, Dtype stored_as = Dtype::F32, bool text_model = false) {
  MOLE_CHECK_ARG(!lora.unet.slots.empty() || !lora.text.slots.empty(),
                 "save_peft_lora: the LoRA adapts nothing");
  LoraConfig like;
  like.task_type.clear();
  if (!lora.unet.slots.empty()) {
    std::map<std::string, Shape> kernels;
    for (const auto& [name, slot] : unet)
      if (slot.stored.rank() == 4) kernels[name] = Shape{slot.stored[2], slot.stored[3]};
    save_lora_set(folder / "unet", lora.unet, like, stored_as, kernels);
  }
  if (lora.text.slots.empty()) return;
  const std::string prefix = "text_model.";
  auto text = lora.text;
  if (!text_model)
    for (auto& slot : text.slots)
      if (slot.starts_with(prefix)) slot = slot.substr(prefix.size());
  text.factors = [own = lora.text.factors](const std::string& slot) {
    return own(detail::with_text_model(slot));
  };
  save_lora_set(folder / "text_encoder", text, like, stored_as);
}

}  // namespace mole
