#pragma once
// What a Stable Diffusion folder of diffusers says of itself, before any of its weights is read.

#include <filesystem>
#include <string>

#include <mole/models/clip/config.hpp>
#include <mole/models/diffusion/lora_names.hpp>
#include <mole/models/diffusion/schedule.hpp>
#include <mole/models/unet/config.hpp>
#include <mole/models/vae/config.hpp>

#include "mole/model_files.hpp"

namespace program {

/// Whether a path is a folder of diffusers: it holds model_index.json or unet/.
bool is_picture_folder(const std::filesystem::path& path);

/// A pipeline's files.
struct PictureFiles {
  std::filesystem::path path;
  std::string variant;    ///< of the weights' names: empty, or fp16 where *.fp16.safetensors are read
  std::string scheduler;  ///< the sampler that the folder names
  mole::UNetConfig unet;
  mole::VaeConfig vae;
  mole::ClipTextConfig text;
  mole::ScheduleConfig schedule;
  mole::SlotCatalogue unet_slots, text_slots;  ///< the layers that a LoRA may adapt
  Index parameters = 0;                        ///< of UNet, VAE and text encoder
  std::string digest;                   ///< of the UNet's weights: 16 hex digits, as ModelFiles::digest
  std::string vae_digest, text_digest;  ///< the same of the other parts

  /// Pixels of an image's side for each of its latents'.
  Index factor() const { return Index{1} << (vae.channels.size() - 1); }
};

/// The variant whose weights a folder holds: empty where the plain ones are there, else fp16 or non_ema. Throws
/// mole::Error where there are none.
std::string find_variant(const std::filesystem::path& folder);

/// Throws mole::Error, naming the part and the remedy, for one that is missing; mole::FormatError, naming file and key,
/// for what is not Stable Diffusion 1 or 2. `variant`: empty takes find_variant()'s.
PictureFiles read_picture_files(const std::filesystem::path& folder, const std::string& variant = "");

/// The sides of a picture in pixels.
struct PictureSize {
  Index width = 512, height = 512;
};

/// The sides from "512" or "768x512". Throws mole::ArgumentError for a text that is neither, and
/// for a side that is no multiple of `factor` with the nearest that are.
PictureSize picture_size(const std::string& text, Index factor);

}  // namespace program
