#pragma once
// Stable Diffusion as diffusers stores it: a folder of folders.

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include <mole/models/clip/checkpoint.hpp>
#include <mole/models/diffusion/sample.hpp>
#include <mole/models/diffusion/schedule_file.hpp>
#include <mole/models/unet/checkpoint.hpp>
#include <mole/models/vae/checkpoint.hpp>

namespace mole {

/// The parts of a StableDiffusionPipeline but its tokenizer.
template <class T, class B>
struct StableDiffusion {
  ClipText<T, B> text;
  UNet<T, B> unet;
  Vae<T, B> vae;
  NoiseSchedule schedule;

  /// The states [S, L, d] of token ids [S, L] that the UNet reads.
  Tensor<T, B> states(const Tensor<Index, B>& ids) const {
    MolePass<T, B> pass;
    return text.states(ids, pass);
  }
};

namespace detail {

/// Throws FormatError unless the folder is a pipeline that is read here.
inline void check_pipeline(const std::filesystem::path& folder) {
  const auto path = folder / "model_index.json";
  MOLE_CHECK_AS(
      Error, file_exists(path), folder,
      "is no pipeline of diffusers: it holds no model_index.json; give the folder that has unet/, vae/ and "
      "text_encoder/");
  const auto json = read_json_object(path);
  const std::string source = message(path) + ":";
  const auto name = ConfigFields(json, source).text("_class_name", "StableDiffusionPipeline");
  MOLE_CHECK_FORMAT(name == "StableDiffusionPipeline" || name == "StableDiffusionImg2ImgPipeline", source,
                    "_class_name is", quote(name),
                    ", which is not supported: only StableDiffusionPipeline is");
  for (const auto& [part, wanted] :
       {std::pair("unet", "UNet2DConditionModel"), std::pair("vae", "AutoencoderKL"),
        std::pair("text_encoder", "CLIPTextModel")}) {
    const auto* const found = find_field(json, part);
    if (!found) continue;
    const bool right = found->is_array() && found->size() == 2 && is_text(values_of(*found)[1], wanted);
    MOLE_CHECK_FORMAT(right, source, part, "is", shown_json(*found), ", which is not supported: expected",
                      wanted);
  }
}

}  // namespace detail

/// The pipeline in a folder; variant as for load_unet(), of all parts. safety_checker, feature_extractor and
/// tokenizer are not read. Throws FormatError, naming file and key or tensor, for what is not Stable
/// Diffusion 1 or 2; Error where a file cannot be read.
template <class T, class B>
StableDiffusion<T, B> load_stable_diffusion(const std::filesystem::path& folder,
                                            const std::string& variant = "",
                                            std::vector<std::string>* warnings = nullptr) {
  detail::check_pipeline(folder);
  StableDiffusion<T, B> model{
      load_clip_text<T, B>(folder / "text_encoder", warnings, variant),
      load_unet<T, B>(folder / "unet", variant, warnings), load_vae<T, B>(folder / "vae", variant, warnings),
      NoiseSchedule(read_schedule_config(folder / "scheduler" / "scheduler_config.json"))};
  MOLE_CHECK_FORMAT(model.text.config().hidden == model.unet.config().text_width, folder,
                    "the text encoder's width", model.text.config().hidden, "is not the UNet's",
                    model.unet.config().text_width);
  MOLE_CHECK_FORMAT(model.vae.config().latent_channels == model.unet.config().in_channels, folder,
                    "the VAE's latents have", model.vae.config().latent_channels, "channels, the UNet reads",
                    model.unet.config().in_channels);
  return model;
}

/// Writes the pipeline as diffusers loads it, without a tokenizer. Throws Error where a file cannot be
/// written.
template <class T, class B>
void save_stable_diffusion(const std::filesystem::path& folder, StableDiffusion<T, B>& model,
                           Dtype stored_as) {
  save_clip_text(folder / "text_encoder", model.text, stored_as);
  save_unet(folder / "unet", model.unet, stored_as);
  save_vae(folder / "vae", model.vae, stored_as);
  std::error_code reason;
  std::filesystem::create_directories(folder / "scheduler", reason);
  MOLE_CHECK_AS(Error, !reason, folder, "cannot be made:", reason.message());
  write_json(folder / "scheduler" / "scheduler_config.json", schedule_config_json(model.schedule.config()));
  const auto part = [](const char* library, const char* name) {
    return std::vector<std::string>{library, name};
  };
  auto none = detail::json_list();
  for (int i = 0; i < 2; ++i) detail::add_value(none, Json());
  // Last: the folder is no pipeline before it is whole.
  write_json(folder / "model_index.json",
             detail::json_object({{"_class_name", "StableDiffusionPipeline"},
                                  {"feature_extractor", none},
                                  {"image_encoder", none},
                                  {"requires_safety_checker", false},
                                  {"safety_checker", none},
                                  {"scheduler", part("diffusers", "DDIMScheduler")},
                                  {"text_encoder", part("transformers", "CLIPTextModel")},
                                  {"tokenizer", none},
                                  {"unet", part("diffusers", "UNet2DConditionModel")},
                                  {"vae", part("diffusers", "AutoencoderKL")}}));
}

}  // namespace mole
