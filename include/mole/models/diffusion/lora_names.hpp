#pragma once
// What the files of diffusers, kohya and LyCORIS call the factors of a LoRA. They mix their spellings in one
// file, so each key is decided by itself.

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/core/shape.hpp>
#include <mole/nn/slots.hpp>

namespace mole {

/// A slot as files must fit it: W's extents, and its shape in a checkpoint.
struct KnownSlot {
  Index d_out = 0, d_in = 0;
  Shape stored;
};

/// The slots of a model that a file may adapt, by name.
using SlotCatalogue = std::map<std::string, KnownSlot>;

template <class T, class B>
SlotCatalogue slot_catalogue(const SlotTable<T, B>& table) {
  SlotCatalogue slots;
  for (const auto& slot : table.slots) slots[slot.name] = {slot.shape[0], slot.shape[1], slot.stored_shape()};
  return slots;
}

namespace detail {

/// A part of a pipeline that a file adapts.
enum class LoraPart { unet, text };
/// What a tensor of a file is to its module.
enum class LoraRole { down, up, alpha };

struct LoraKey {
  LoraPart part;
  std::string module;
  LoraRole role;
};

/// What a key holds that is no plain LoRA, and what that is.
struct ForeignLora {
  std::string_view text, what;
};

inline constexpr std::array<ForeignLora, 23> foreign_lora{{
    {"hada_", "a LoHa, a product of two low-rank matrices"},
    {"lokr_", "a LoKr, a Kronecker product"},
    {"dora_scale", "a DoRA, which rescales the adapted weight"},
    {"lora_magnitude_vector", "a DoRA, which rescales the adapted weight"},
    {".diff_b", "a full difference of a bias"},
    {".diff", "a full difference of a weight"},
    {"lora_mid", "a Tucker decomposition (LoCon with use_tucker)"},
    {"boft", "a BOFT, which rotates the weight"},
    {"oft_", "an OFT, which rotates the weight"},
    {".a1.weight", "a GLoRA"},
    {".a2.weight", "a GLoRA"},
    {".b1.weight", "a GLoRA"},
    {".b2.weight", "a GLoRA"},
    {"on_input", "an IA3, which scales activations"},
    {"w_norm", "a full difference of a norm"},
    {"b_norm", "a full difference of a norm"},
    {"lora_B.bias", "a LoRA with a bias of its own"},
    {"lora_up.bias", "a LoRA with a bias of its own"},
    {"lora_te2_", "a part for SDXL's second text encoder"},
    {"text_encoder_2.", "a part for SDXL's second text encoder"},
    {"lora_controlnet", "a part for a ControlNet"},
    {"lora_embedding_", "a LoRA of an embedding"},
    {"bundle_emb", "an embedding of a token"},
}};

/// Blocks in the layout of SDXL and of the original code.
inline constexpr std::array<std::string_view, 3> foreign_blocks{"input_blocks", "output_blocks",
                                                                "middle_block"};

/// Throws FormatError, naming the tensor and what it is, unless it may belong to a plain LoRA.
inline void refuse_foreign_lora(const std::string& source, const std::string& key) {
  for (const auto& [text, what] : foreign_lora)
    MOLE_CHECK_FORMAT(key.find(text) == key.npos, source, "tensor", quote(key), "belongs to",
                      std::string(what), ", which is not supported: only plain LoRAs are");
  for (const auto& block : foreign_blocks)
    MOLE_CHECK_FORMAT(key.find(block) == key.npos, source, "tensor", quote(key), "names", std::string(block),
                      ": the layout of SDXL or of the original code, which is not supported");
}

/// What a key ends in, and its role.
struct LoraSuffix {
  std::string_view text;
  LoraRole role;
};

inline constexpr std::array<LoraSuffix, 7> diffusers_suffixes{{
    {".lora_A.weight", LoraRole::down},
    {".lora_B.weight", LoraRole::up},
    {".lora.down.weight", LoraRole::down},
    {".lora.up.weight", LoraRole::up},
    {".lora_linear_layer.down.weight", LoraRole::down},
    {".lora_linear_layer.up.weight", LoraRole::up},
    {".alpha", LoraRole::alpha},
}};

/// The old spelling: the projection's name is in the factor's, attn1.processor.to_q_lora.down.weight.
inline std::optional<std::pair<std::string, LoraRole>> old_diffusers_key(const std::string& key,
                                                                         LoraPart part) {
  struct Projection {
    std::string_view old, unet, text;
  };
  constexpr std::array<Projection, 4> projections{{{"to_q_lora", "to_q", "q_proj"},
                                                   {"to_k_lora", "to_k", "k_proj"},
                                                   {"to_v_lora", "to_v", "v_proj"},
                                                   {"to_out_lora", "to_out.0", "out_proj"}}};
  for (const auto& [suffix, role] : {std::pair<std::string_view, LoraRole>(".down.weight", LoraRole::down),
                                     std::pair<std::string_view, LoraRole>(".up.weight", LoraRole::up)}) {
    if (!key.ends_with(suffix)) continue;
    const std::string rest = key.substr(0, key.size() - suffix.size());
    for (const auto& projection : projections) {
      const std::string end = "." + std::string(projection.old);
      if (!rest.ends_with(end)) continue;
      const std::string module = rest.substr(0, rest.size() - end.size()) + ".";
      return std::pair(module + std::string(part == LoraPart::unet ? projection.unet : projection.text),
                       role);
    }
  }
  return std::nullopt;
}

/// The layer and the role that a key of diffusers or PEFT gives, without its "unet." or "text_encoder."; nothing for
/// another key.
inline std::optional<std::pair<std::string, LoraRole>> layer_and_role(const std::string& key, LoraPart part) {
  if (const auto old = old_diffusers_key(key, part)) return old;
  for (const auto& suffix : diffusers_suffixes)
    if (key.size() > suffix.text.size() && key.ends_with(suffix.text))
      return std::pair(key.substr(0, key.size() - suffix.text.size()), suffix.role);
  return std::nullopt;
}

/// The module of a text encoder as CLIPModel calls it.
inline std::string with_text_model(const std::string& module) {
  return module.starts_with("text_model.") ? module : "text_model." + module;
}

inline std::string flattened(std::string name) {
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

/// Reads the keys of one file for the slots of a pipeline.
class LoraKeys {
 public:
  LoraKeys(const SlotCatalogue& unet, const SlotCatalogue& text) {
    for (const auto& [name, slot] : unet) flat_unet_[flattened(name)] = name;
    for (const auto& [name, slot] : text) flat_text_[flattened(name)] = name;
  }

  /// Throws FormatError, naming the tensor, for one that is no factor of a plain LoRA.
  LoraKey read(const std::string& source, const std::string& key) const {
    MOLE_CHECK_FORMAT(key.size() <= 500, source, "a tensor's name is longer than 500 bytes:", quote(key));
    refuse_foreign_lora(source, key);
    MOLE_CHECK_FORMAT(
        !key.starts_with("base_model.model."), source, "tensor", quote(key),
        "is named as PEFT names it: give the folder with its adapter_config.json, which says the scale");
    for (const std::string_view prefix : {"lora_unet_", "lora_te1_", "lora_te_"})
      if (key.starts_with(prefix)) return kohya(source, key, prefix);
    LoraPart part = LoraPart::unet;
    std::string rest = key;
    if (rest.starts_with("text_encoder.")) {
      part = LoraPart::text;
      rest = rest.substr(std::string_view("text_encoder.").size());
    } else if (rest.starts_with("unet.")) {
      rest = rest.substr(std::string_view("unet.").size());
    }
    auto found = layer_and_role(rest, part);
    MOLE_CHECK_FORMAT(found.has_value(), source, "tensor", quote(key), "is no factor of a LoRA");
    auto& [layer, role] = *found;
    constexpr std::string_view processor = ".processor";
    if (const auto at = layer.find(processor);
        at != layer.npos && (at + processor.size() == layer.size() || layer[at + processor.size()] == '.'))
      layer.erase(at, processor.size());
    return {part, part == LoraPart::text ? with_text_model(layer) : layer, role};
  }

 private:
  LoraKey kohya(const std::string& source, const std::string& key, std::string_view prefix) const {
    const LoraPart part = prefix == "lora_unet_" ? LoraPart::unet : LoraPart::text;
    const auto dot = key.find('.');
    const std::string flat = key.substr(prefix.size(), dot == key.npos ? dot : dot - prefix.size()),
                      suffix = dot == key.npos ? "" : key.substr(dot);
    const bool down = suffix == ".lora_down.weight", up = suffix == ".lora_up.weight";
    MOLE_CHECK_FORMAT(down || up || suffix == ".alpha", source, "tensor", quote(key),
                      "is no factor of a LoRA: expected .lora_down.weight, .lora_up.weight or .alpha");
    const auto& table = part == LoraPart::unet ? flat_unet_ : flat_text_;
    const auto found = table.find(flat);
    MOLE_CHECK_FORMAT(found != table.end(), source, "tensor", quote(key),
                      "adapts a module that this model does not", "have; it was trained for another base");
    return {part, found->second, down ? LoraRole::down : up ? LoraRole::up : LoraRole::alpha};
  }

  std::map<std::string, std::string> flat_unet_, flat_text_;
};

}  // namespace detail

}  // namespace mole
