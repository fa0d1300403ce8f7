#pragma once
// AutoencoderKL checkpoints in the layout of diffusers: config.json and diffusion_pytorch_model.safetensors.

#include <array>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <mole/io/config_digest.hpp>
#include <mole/models/load_parameters.hpp>
#include <mole/models/unet/checkpoint.hpp>
#include <mole/models/vae/model.hpp>

namespace mole {

namespace detail {

inline constexpr std::array<FixedField, 9> fixed_vae_fields{{
    {"_class_name", "\"AutoencoderKL\"", "only AutoencoderKL is read"},
    {"act_fn", "\"silu\"", "the activation would be another one"},
    {"latents_mean", "null", "latents would be shifted by channel"},
    {"latents_std", "null", "latents would be scaled by channel"},
    {"shift_factor", "null", "latents would be shifted"},
    {"use_quant_conv", "true", "the encoder's last convolution would be missing"},
    {"use_post_quant_conv", "true", "the decoder's first convolution would be missing"},
    {"mid_block_add_attention", "true", "the middle's attention would be missing"},
    {"norm_type", "null", "the norms would be others"},
}};

/// Until 2022 diffusers called the attention's layers query, key, value and proj_attn.
inline ParameterNames vae_names() {
  ParameterNames names{.ones_at_end = true};
  names.in_file = [](const std::string& name) {
    std::vector<std::string> list{name};
    for (const auto& [now, then] : {std::pair(".to_q.", ".query."), std::pair(".to_k.", ".key."),
                                    std::pair(".to_v.", ".value."), std::pair(".to_out.0.", ".proj_attn.")}) {
      const auto at = name.find(now);
      if (at == name.npos) continue;
      auto old = name;
      list.push_back(old.replace(at, std::string(now).size(), then));
    }
    return list;
  };
  return names;
}

}  // namespace detail

/// Reads config.json of an AutoencoderKL. Missing keys have the defaults of Stable Diffusion's files.
/// Throws FormatError, naming file, key and reason, for what Stable Diffusion 1 and 2 do not have, or an
/// impossible value; Error where the file cannot be read.
inline VaeConfig read_vae_config(const std::filesystem::path& path) {
  const auto json = read_json_object(path);
  const std::string source = message(path) + ":";
  detail::check_fixed_fields(json, source, detail::fixed_vae_fields);
  const detail::ConfigFields fields(json, source);
  constexpr Index most = 1 << 20;
  VaeConfig c;
  c.in_channels = fields.integer("in_channels", 3, 1, most);
  c.out_channels = fields.integer("out_channels", 3, 1, most);
  c.latent_channels = fields.integer("latent_channels", 4, 1, most);
  c.channels = detail::whole_numbers(json, source, "block_out_channels", c.channels, most);
  c.layers = fields.integer("layers_per_block", 2, 1, 100);
  c.norm_groups = fields.integer("norm_num_groups", 32, 1, most);
  c.scaling_factor = fields.number("scaling_factor", c.scaling_factor);
  MOLE_CHECK_FORMAT(c.scaling_factor > 0, source, "scaling_factor should be above 0 and is",
                    c.scaling_factor);
  if (fields.has("sample_size")) c.sample_size = fields.integers("sample_size", 512, 1, most).front();
  for (const auto& [field, type] : {std::pair("down_block_types", "DownEncoderBlock2D"),
                                    std::pair("up_block_types", "UpDecoderBlock2D")}) {
    const auto types = detail::texts(json, source, field, std::vector<std::string>(c.channels.size(), type));
    MOLE_CHECK_FORMAT(types == std::vector<std::string>(c.channels.size(), type), source, field,
                      "should name", type, "for each of", c.channels.size(),
                      "levels; others are not supported");
  }
  for (const Index channels : c.channels)
    MOLE_CHECK_FORMAT(channels % c.norm_groups == 0, source, channels, "channels do not divide into",
                      c.norm_groups, "groups (norm_num_groups)");
  return c;
}

/// The config.json that diffusers loads as an AutoencoderKL.
inline Json vae_config_json(const VaeConfig& c) {
  return detail::json_object(
      {{"_class_name", "AutoencoderKL"},
       {"in_channels", c.in_channels},
       {"out_channels", c.out_channels},
       {"latent_channels", c.latent_channels},
       {"block_out_channels", c.channels},
       {"down_block_types", std::vector<std::string>(c.channels.size(), "DownEncoderBlock2D")},
       {"up_block_types", std::vector<std::string>(c.channels.size(), "UpDecoderBlock2D")},
       {"layers_per_block", c.layers},
       {"norm_num_groups", c.norm_groups},
       {"scaling_factor", c.scaling_factor},
       {"act_fn", "silu"},
       {"sample_size", c.sample_size}});
}

namespace detail {

/// Of what gives a VAE's weights their meaning.
inline std::string vae_config_digest(const VaeConfig& config) {
  constexpr std::array<std::string_view, 7> fields{
      "in_channels",      "out_channels",    "latent_channels", "block_out_channels",
      "layers_per_block", "norm_num_groups", "scaling_factor"};
  return config_digest(vae_config_json(config), fields);
}

}  // namespace detail

/// The AutoencoderKL in a folder; variant as for load_unet(). Old names of the attention's layers are known.
/// Throws FormatError, naming file and tensor or key, and for files of two saves; Error where a file cannot be read.
template <class T, class B>
Vae<T, B> load_vae(const std::filesystem::path& folder, const std::string& variant = "",
                   std::vector<std::string>* warnings = nullptr) {
  const auto opened =
      detail::open_folder(folder, diffusers_stem(variant), read_vae_config, detail::vae_config_digest);
  Vae<T, B> model(opened.first);
  load_parameters(model, opened.second, detail::vae_names(), warnings);
  return model;
}

/// Writes the model as diffusers loads it. Both files are complete on the disk before either is put in place, and
/// load_vae() refuses one of them beside another. Throws Error where a file cannot be written.
template <class T, class B>
void save_vae(const std::filesystem::path& folder, Vae<T, B>& model, Dtype stored_as) {
  save_parameters(folder, diffusers_stem(), model, vae_config_json(model.config()), stored_as,
                  detail::vae_config_digest(model.config()));
}

}  // namespace mole
