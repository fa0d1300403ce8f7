#pragma once
// UNet checkpoints in the layout of diffusers: config.json and diffusion_pytorch_model.safetensors.

#include <filesystem>
#include <string>
#include <vector>

#include <mole/models/load_parameters.hpp>
#include <mole/models/unet/config_file.hpp>
#include <mole/models/unet/model.hpp>

namespace mole {

/// The stem of what diffusers stores: that of the plain variant, or of `fp16` or `non_ema`.
inline std::string diffusers_stem(const std::string& variant = "") {
  return variant.empty() ? "diffusion_pytorch_model" : "diffusion_pytorch_model." + variant;
}

/// The UNet2DConditionModel in a folder; variant as diffusers has it: "fp16" reads *.fp16.safetensors.
/// Throws FormatError, naming file and tensor or key, as read_unet_config() and load_parameters() do, and for files of
/// two saves; Error where a file cannot be read.
template <class T, class B>
UNet<T, B> load_unet(const std::filesystem::path& folder, const std::string& variant = "",
                     std::vector<std::string>* warnings = nullptr) {
  const auto opened =
      detail::open_folder(folder, diffusers_stem(variant), read_unet_config, detail::unet_config_digest);
  UNet<T, B> model(opened.first);
  load_parameters(model, opened.second, {.ones_at_end = true}, warnings);
  return model;
}

/// Writes the model as diffusers loads it. Both files are complete on the disk before either is put in place, and
/// load_unet() refuses one of them beside another. Throws Error where a file cannot be written.
template <class T, class B>
void save_unet(const std::filesystem::path& folder, UNet<T, B>& model, Dtype stored_as) {
  save_parameters(folder, diffusers_stem(), model, unet_config_json(model.config()), stored_as,
                  detail::unet_config_digest(model.config()));
}

}  // namespace mole
