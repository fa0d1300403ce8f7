#pragma once
// The config.json of a CLIP, and its preprocessor_config.json.

#include <array>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include <mole/core/fingerprint.hpp>
#include <mole/io/config_digest.hpp>
#include <mole/io/config_fields.hpp>
#include <mole/models/clip/config.hpp>
#include <mole/models/clip/prepare.hpp>

namespace mole {

namespace detail {

inline constexpr Index most_clip = 1 << 24;

inline void read_clip_tower(const ConfigFields& fields, const std::string& source, ClipTowerConfig& c) {
  c.hidden = fields.integer("hidden_size", c.hidden, 1, most_clip);
  c.intermediate = fields.integer("intermediate_size", c.intermediate, 1, most_clip);
  c.layers = fields.integer("num_hidden_layers", c.layers, 1, 1000);
  c.heads = fields.integer("num_attention_heads", c.heads, 1, most_clip);
  c.activation = fields.text("hidden_act", c.activation);
  c.layer_norm_eps = fields.number("layer_norm_eps", c.layer_norm_eps);
  MOLE_CHECK_FORMAT(c.hidden % c.heads == 0, source, "hidden_size", c.hidden, "does not divide into", c.heads,
                    "heads (num_attention_heads)");
  const auto& act = c.activation;
  MOLE_CHECK_FORMAT(
      act == "quick_gelu" || act == "gelu" || act == "gelu_new" || act == "relu" || act == "silu", source,
      "hidden_act", quote(act), "is not supported: expected quick_gelu, gelu, gelu_new, relu or silu");
  MOLE_CHECK_FORMAT(c.layer_norm_eps > 0 && c.layer_norm_eps < 1, source,
                    "layer_norm_eps should be between 0 and 1 and is", c.layer_norm_eps);
}

inline ClipTextConfig clip_text_config(const Json& json, const std::string& source) {
  const ConfigFields fields(json, source);
  ClipTextConfig c;
  read_clip_tower(fields, source, c);
  c.vocabulary = fields.integer("vocab_size", c.vocabulary, 1, most_clip);
  c.positions = fields.integer("max_position_embeddings", c.positions, 1, most_clip);
  c.eos_token_id = fields.integer("eos_token_id", c.eos_token_id, 0, most_clip);
  return c;
}

inline ClipVisionConfig clip_vision_config(const Json& json, const std::string& source) {
  const ConfigFields fields(json, source);
  ClipVisionConfig c;
  read_clip_tower(fields, source, c);
  c.image_size = fields.integer("image_size", c.image_size, 1, 1 << 16);
  c.patch_size = fields.integer("patch_size", c.patch_size, 1, c.image_size);
  c.channels = fields.integer("num_channels", c.channels, 1, 1 << 16);
  return c;
}

/// A part of a CLIP's configuration; the keys of NAME_dict, which old files have too, win.
inline Json clip_part(const Json& json, const std::string& name, const std::string& source) {
  auto part = json_object();
  for (const auto& key : {name, name + "_dict"}) {
    const auto* const found = given_field(json, key);
    if (!found) continue;
    MOLE_CHECK_FORMAT(found->is_object(), source, key, "should be an object and is", shown_json(*found));
    for (const auto& [field, value] : fields_of(*found)) set_field(part, field, value);
  }
  return part;
}

inline Json clip_tower_json(const ClipTowerConfig& c) {
  return json_object({{"hidden_size", c.hidden},
                      {"intermediate_size", c.intermediate},
                      {"num_hidden_layers", c.layers},
                      {"num_attention_heads", c.heads},
                      {"hidden_act", c.activation},
                      {"layer_norm_eps", c.layer_norm_eps}});
}

}  // namespace detail

/// Reads config.json of a CLIPTextModel, or of a CLIPTextModelWithProjection, whose projection it then has.
/// Missing numbers have the defaults of transformers.
/// Throws FormatError, naming file and field, for another model or an impossible value; Error where the file
/// cannot be read.
inline ClipTextConfig read_clip_text_config(const std::filesystem::path& path) {
  const auto json = read_json_object(path);
  const std::string source = message(path) + ":";
  const detail::ConfigFields fields(json, source);
  const auto type = fields.text("model_type", "clip_text_model");
  MOLE_CHECK_FORMAT(type == "clip_text_model", source, "model_type should be clip_text_model and is",
                    quote(type));
  auto config = detail::clip_text_config(json, source);
  const auto* const architectures = detail::find_field(json, "architectures");
  if (architectures && architectures->is_array())
    for (const auto& architecture : detail::values_of(*architectures))
      if (detail::is_text(architecture, "CLIPTextModelWithProjection"))
        config.projection = fields.integer("projection_dim", 512, 1, detail::most_clip);
  return config;
}

/// Reads config.json of a CLIPModel; text_config_dict and vision_config_dict of old files win. Defaults and
/// errors as read_clip_text_config has them.
inline ClipConfig read_clip_config(const std::filesystem::path& path) {
  const auto json = read_json_object(path);
  const std::string source = message(path) + ":";
  const detail::ConfigFields fields(json, source);
  const auto type = fields.text("model_type", "clip");
  MOLE_CHECK_FORMAT(type == "clip", source, "model_type should be clip and is", quote(type));
  ClipConfig config;
  config.text = detail::clip_text_config(detail::clip_part(json, "text_config", source), source);
  config.vision = detail::clip_vision_config(detail::clip_part(json, "vision_config", source), source);
  config.projection = fields.integer("projection_dim", 512, 1, detail::most_clip);
  config.logit_scale_start = fields.number("logit_scale_init_value", config.logit_scale_start);
  return config;
}

/// The config.json that transformers loads as a CLIPTextModel, or with its projection.
inline Json clip_text_config_json(const ClipTextConfig& c) {
  auto json = detail::clip_tower_json(c);
  const std::vector<std::string> architectures{c.projection > 0 ? "CLIPTextModelWithProjection"
                                                                : "CLIPTextModel"};
  detail::set_field(json, {"architectures", architectures});
  detail::set_field(json, {"model_type", "clip_text_model"});
  detail::set_field(json, {"vocab_size", c.vocabulary});
  detail::set_field(json, {"max_position_embeddings", c.positions});
  detail::set_field(json, {"eos_token_id", c.eos_token_id});
  // No model reads it, and the default of transformers may be beyond the vocabulary.
  detail::set_field(json, {"bos_token_id", Json()});
  if (c.projection > 0) detail::set_field(json, {"projection_dim", c.projection});
  return json;
}

/// The config.json that transformers loads as a CLIPModel.
inline Json clip_config_json(const ClipConfig& c) {
  auto text = clip_text_config_json(c.text), vision = detail::clip_tower_json(c.vision);
  text.erase(std::string("architectures"));
  detail::set_field(text, {"projection_dim", c.projection});
  detail::set_field(vision, {"model_type", "clip_vision_model"});
  detail::set_field(vision, {"image_size", c.vision.image_size});
  detail::set_field(vision, {"patch_size", c.vision.patch_size});
  detail::set_field(vision, {"num_channels", c.vision.channels});
  detail::set_field(vision, {"projection_dim", c.projection});
  return detail::json_object({{"architectures", std::vector<std::string>{"CLIPModel"}},
                              {"model_type", "clip"},
                              {"text_config", text},
                              {"vision_config", vision},
                              {"projection_dim", c.projection},
                              {"logit_scale_init_value", c.logit_scale_start}});
}

namespace detail {

/// Of what gives the weights of a tower for texts their meaning, by its configuration.
inline std::string clip_text_digest(const Json& text) {
  constexpr std::array<std::string_view, 10> fields{
      "hidden_size",  "intermediate_size", "num_hidden_layers", "num_attention_heads",
      "hidden_act",   "layer_norm_eps",    "vocab_size",        "max_position_embeddings",
      "eos_token_id", "projection_dim"};
  return config_digest(text, fields);
}

inline std::string clip_text_config_digest(const ClipTextConfig& config) {
  return clip_text_digest(clip_text_config_json(config));
}

/// The same for both towers.
inline std::string clip_config_digest(const ClipConfig& config) {
  constexpr std::array<std::string_view, 10> fields{
      "hidden_size",    "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act",
      "layer_norm_eps", "image_size",        "patch_size",        "num_channels",        "projection_dim"};
  const auto json = clip_config_json(config);
  return Fingerprint()
      .add(clip_text_digest(*find_field(json, "text_config")))
      .add(config_digest(*find_field(json, "vision_config"), fields))
      .hex();
}

}  // namespace detail

/// Reads preprocessor_config.json; sizes may be numbers or objects. Throws FormatError, naming file and
/// field, for a value that is none, or another resampling than bicubic; Error where the file cannot be read.
inline ClipImageOptions read_clip_image_options(const std::filesystem::path& path) {
  const auto json = read_json_object(path);
  const std::string source = message(path) + ":";
  const detail::ConfigFields fields(json, source);
  ClipImageOptions options;
  const auto side = [&](const char* field, const char* inside, Index& value) {
    const auto* const found = detail::given_field(json, field);
    if (!found) return;
    const auto* const part = detail::find_field(*found, inside);
    value = fields.integer(field, part ? *part : *found, 1, 1 << 16);
  };
  side("size", "shortest_edge", options.resize);
  side("crop_size", "height", options.crop_height);
  side("crop_size", "width", options.crop_width);
  MOLE_CHECK_FORMAT(fields.integer("resample", 3, 0, 5) == 3, source,
                    "resample is not bicubic (3); other filters are not supported");
  const auto triple = [&](const char* field, std::array<double, 3>& values) {
    const auto* const found = detail::given_field(json, field);
    if (!found) return;
    MOLE_CHECK_FORMAT(found->is_array() && found->size() == 3, source, field,
                      "should be a list of 3 numbers");
    const auto& list = detail::values_of(*found);
    for (std::size_t i = 0; i < 3; ++i) {
      MOLE_CHECK_FORMAT(list[i].is_number(), source, field, "should be a list of 3 numbers");
      values[i] = list[i].get<double>();
    }
  };
  triple("image_mean", options.mean);
  triple("image_std", options.deviation);
  for (const double deviation : options.deviation)
    MOLE_CHECK_FORMAT(deviation > 0, source, "image_std should be above 0 and is", deviation);
  return options;
}

}  // namespace mole
