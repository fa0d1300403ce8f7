#pragma once
// The config.json of a UNet2DConditionModel, and the refusal, by key, of what is outside Stable Diffusion 1
// and 2.

#include <algorithm>
#include <array>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <mole/io/config_digest.hpp>
#include <mole/io/config_fields.hpp>
#include <mole/models/unet/config.hpp>

namespace mole {

namespace detail {

/// A key, the JSON of the one value that is supported, and what another would mean.
struct FixedField {
  std::string_view name, value, otherwise;
};

/// Throws FormatError, naming key, value and reason, where a key that is there has neither that value nor
/// null.
inline void check_fixed_fields(const Json& json, const std::string& source,
                               std::span<const FixedField> fields) {
  for (const auto& field : fields) {
    const auto* const found = given_field(json, field.name);
    if (!found) continue;
    const auto wanted = parse_json(field.value, source);
    bool same = is_scalar(*found, wanted);
    if (found->is_array() && !found->empty()) {
      same = true;
      for (const auto& one : values_of(*found)) same = same && is_scalar(one, wanted);
    }
    MOLE_CHECK_FORMAT(same, source, std::string(field.name), "is", shown_json(*found) + ",",
                      "which is not supported:", std::string(field.otherwise));
  }
}

/// A list of whole numbers. Throws FormatError for anything else.
inline std::vector<Index> whole_numbers(const Json& json, const std::string& source, const char* name,
                                        const std::vector<Index>& otherwise, Index most) {
  const auto* const found = given_field(json, name);
  if (!found) return otherwise;
  MOLE_CHECK_FORMAT(found->is_array(), source, name, "should be a list and is", shown_json(*found));
  return ConfigFields(json, source).integers(name, 0, 1, most);
}

/// A list of texts. Throws FormatError for anything else.
inline std::vector<std::string> texts(const Json& json, const std::string& source, const char* name,
                                      const std::vector<std::string>& otherwise) {
  const auto* const found = given_field(json, name);
  if (!found) return otherwise;
  MOLE_CHECK_FORMAT(found->is_array() && !found->empty() && found->size() <= 100, source, name,
                    "should be a list of texts and is", shown_json(*found));
  std::vector<std::string> list;
  for (const auto& one : values_of(*found)) {
    MOLE_CHECK_FORMAT(one.is_string(), source, name, "should be a list of texts and is", shown_json(*found));
    list.push_back(text_of(one));
  }
  return list;
}

inline constexpr std::array<FixedField, 22> fixed_unet_fields{{
    {"_class_name", "\"UNet2DConditionModel\"", "only UNet2DConditionModel is read"},
    {"num_attention_heads", "null", "Stable Diffusion gives the number of heads as attention_head_dim"},
    {"only_cross_attention", "false", "self-attention would be missing"},
    {"mid_block_only_cross_attention", "false", "self-attention would be missing"},
    {"dual_cross_attention", "false", "two texts would be read"},
    {"class_embed_type", "null", "a class would be added to the time"},
    {"num_class_embeds", "null", "a class would be added to the time"},
    {"addition_embed_type", "null", "more would be added to the time, as in SDXL"},
    {"encoder_hid_dim", "null", "the text would be projected first"},
    {"encoder_hid_dim_type", "null", "the text would be projected first"},
    {"time_embedding_type", "\"positional\"", "the time would be embedded in another way"},
    {"time_cond_proj_dim", "null", "a condition would be added to the time, as in LCM"},
    {"time_embedding_dim", "null", "the time's vector would have another width"},
    {"time_embedding_act_fn", "null", "the time's vector would be activated"},
    {"timestep_post_act", "null", "the time's vector would be activated"},
    {"resnet_time_scale_shift", "\"default\"", "the time would scale the norms"},
    {"conv_in_kernel", "3", "the first convolution would have another kernel"},
    {"conv_out_kernel", "3", "the last convolution would have another kernel"},
    {"mid_block_scale_factor", "1", "the middle's outputs would be scaled"},
    {"center_input_sample", "false", "the latents would be 2 x - 1"},
    {"transformer_layers_per_block", "1", "a level would have several transformer blocks, as in SDXL"},
    {"attention_type", "\"default\"", "attention would be gated, as in GLIGEN"},
}};

inline constexpr std::array<FixedField, 6> more_fixed_unet_fields{{
    {"act_fn", "\"silu\"", "the activation would be another one"},
    {"mid_block_type", "\"UNetMidBlock2DCrossAttn\"", "the middle would be built in another way"},
    {"cross_attention_norm", "null", "the text would be normed"},
    {"resnet_skip_time_act", "false", "the time would not be activated"},
    {"resnet_out_scale_factor", "1", "the resnets' outputs would be scaled"},
    {"class_embeddings_concat", "false", "a class would be joined to the time"},
}};

/// Whether each block has attention. Throws FormatError for another kind of block.
inline std::vector<bool> with_attention(const std::vector<std::string>& types, const std::string& source,
                                        const std::string& field, const std::string& with,
                                        const std::string& without) {
  std::vector<bool> list;
  for (const auto& type : types) {
    MOLE_CHECK_FORMAT(type == with || type == without, source, field, "names", quote(type),
                      ", which is not supported: expected", with, "or", without);
    list.push_back(type == with);
  }
  return list;
}

}  // namespace detail

/// Reads config.json of a UNet2DConditionModel. Missing keys have the defaults of diffusers.
/// Throws FormatError, naming file, key and reason, for what Stable Diffusion 1 and 2 do not have, or an
/// impossible value; Error where the file cannot be read.
inline UNetConfig read_unet_config(const std::filesystem::path& path) {
  const auto json = read_json_object(path);
  const std::string source = message(path) + ":";
  detail::check_fixed_fields(json, source, detail::fixed_unet_fields);
  detail::check_fixed_fields(json, source, detail::more_fixed_unet_fields);
  const detail::ConfigFields fields(json, source);
  constexpr Index most = 1 << 20;
  UNetConfig c;
  c.in_channels = fields.integer("in_channels", 4, 1, most);
  MOLE_CHECK_FORMAT(
      c.in_channels != 9, source,
      "in_channels is 9, which is not supported: an inpainting model also reads a mask and an image");
  c.out_channels = fields.integer("out_channels", 4, 1, most);
  c.channels = detail::whole_numbers(json, source, "block_out_channels", c.channels, most);
  const std::string cross_down = "CrossAttnDownBlock2D", cross_up = "CrossAttnUpBlock2D";
  c.down_attention = detail::with_attention(
      detail::texts(json, source, "down_block_types", {cross_down, cross_down, cross_down, "DownBlock2D"}),
      source, "down_block_types", cross_down, "DownBlock2D");
  c.up_attention = detail::with_attention(
      detail::texts(json, source, "up_block_types", {"UpBlock2D", cross_up, cross_up, cross_up}), source,
      "up_block_types", cross_up, "UpBlock2D");
  c.layers = fields.integer("layers_per_block", 2, 1, 100);
  c.heads = fields.integers("attention_head_dim", 8, 1, most);
  if (c.heads.size() == 1) c.heads.assign(c.channels.size(), c.heads.front());
  c.text_width = fields.integer("cross_attention_dim", 1280, 1, most);
  c.norm_groups = fields.integer("norm_num_groups", 32, 1, most);
  c.norm_eps = fields.number("norm_eps", 1e-5);
  MOLE_CHECK_FORMAT(c.norm_eps > 0 && c.norm_eps < 1, source, "norm_eps should be between 0 and 1 and is",
                    c.norm_eps);
  c.linear_projection = fields.flag("use_linear_projection", false);
  c.flip_sin_to_cos = fields.flag("flip_sin_to_cos", true);
  c.freq_shift = fields.number("freq_shift", 0);
  c.downsample_padding = fields.integer("downsample_padding", 1, 0, 10);
  // It may be a list for images that are not square.
  if (fields.has("sample_size")) c.sample_size = fields.integers("sample_size", 64, 1, most).front();
  const std::size_t n = c.channels.size();
  MOLE_CHECK_FORMAT(c.heads.size() == n && c.down_attention.size() == n && c.up_attention.size() == n, source,
                    "block_out_channels has", n, "levels, but attention_head_dim, down_block_types or",
                    "up_block_types has another number");
  for (std::size_t i = 0; i < n; ++i)
    MOLE_CHECK_FORMAT(c.channels[i] % c.heads[i] == 0 && c.channels[i] % c.norm_groups == 0, source,
                      c.channels[i], "channels do not divide into", c.heads[i],
                      "heads (attention_head_dim) and", c.norm_groups, "groups (norm_num_groups)");
  MOLE_CHECK_FORMAT(
      c.channels.front() % 2 == 0 && std::abs(c.freq_shift) < 0.5 * static_cast<double>(c.channels.front()),
      source, "block_out_channels begins with", c.channels.front(),
      ", which should be even and above twice freq_shift");
  return c;
}

/// The config.json that diffusers loads as a UNet2DConditionModel.
inline Json unet_config_json(const UNetConfig& c) {
  const auto types = [](const std::vector<bool>& attention, const char* with, const char* without) {
    std::vector<std::string> list;
    for (const bool one : attention) list.push_back(one ? with : without);
    return list;
  };
  const bool alike = std::equal(c.heads.begin() + 1, c.heads.end(), c.heads.begin());
  const auto heads = alike ? detail::json_value(c.heads.front()) : detail::json_value(c.heads);
  return detail::json_object(
      {{"_class_name", "UNet2DConditionModel"},
       {"in_channels", c.in_channels},
       {"out_channels", c.out_channels},
       {"block_out_channels", c.channels},
       {"down_block_types", types(c.down_attention, "CrossAttnDownBlock2D", "DownBlock2D")},
       {"up_block_types", types(c.up_attention, "CrossAttnUpBlock2D", "UpBlock2D")},
       {"layers_per_block", c.layers},
       {"attention_head_dim", heads},
       {"cross_attention_dim", c.text_width},
       {"norm_num_groups", c.norm_groups},
       {"norm_eps", c.norm_eps},
       {"use_linear_projection", c.linear_projection},
       {"flip_sin_to_cos", c.flip_sin_to_cos},
       {"freq_shift", c.freq_shift},
       {"downsample_padding", c.downsample_padding},
       {"act_fn", "silu"},
       {"sample_size", c.sample_size}});
}

namespace detail {

/// Of what gives a UNet's weights their meaning.
inline std::string unet_config_digest(const UNetConfig& config) {
  constexpr std::array<std::string_view, 14> fields{
      "in_channels",     "out_channels",      "block_out_channels",    "down_block_types",
      "up_block_types",  "layers_per_block",  "attention_head_dim",    "cross_attention_dim",
      "norm_num_groups", "norm_eps",          "use_linear_projection", "flip_sin_to_cos",
      "freq_shift",      "downsample_padding"};
  return config_digest(unet_config_json(config), fields);
}

}  // namespace detail

}  // namespace mole
