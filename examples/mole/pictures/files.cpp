#include "mole/pictures/files.hpp"

#include <array>
#include <charconv>

#include <mole/backends/cpu.hpp>
#include <mole/core/error.hpp>
#include <mole/core/fingerprint.hpp>
#include <mole/models/diffusion/pipeline.hpp>

namespace program {

namespace {

namespace fs = std::filesystem;
using mole::detail::file_exists;

/// A part of a pipeline and the files that it cannot be without.
struct Part {
  const char *folder, *config;
  bool has_weights;
};
constexpr std::array<Part, 5> parts{{{"unet", "config.json", true},
                                     {"vae", "config.json", true},
                                     {"text_encoder", "config.json", true},
                                     {"tokenizer", "", false},
                                     {"scheduler", "scheduler_config.json", false}}};

constexpr const char* remedy =
    "; download the whole model, or save it in diffusers by pipeline.save_pretrained(FOLDER)";

/// Whether the UNet's weights of a variant are there, in one file or in shards.
bool has_weights(const fs::path& folder, const std::string& variant) {
  const auto stem = mole::diffusers_stem(variant);
  return file_exists(folder / "unet" / (stem + ".safetensors")) ||
         file_exists(folder / "unet" / (stem + ".safetensors.index.json"));
}

/// The numbers of a part's weights.
Index parameters_of(const fs::path& folder, const std::string& stem) {
  const mole::Checkpoint weights(folder, stem);
  Index sum = 0;
  for (const auto& name : weights.names())
    if (!weights.file_of(name).unread().contains(name)) sum += weights.at(name).shape.size();
  return sum;
}

std::string digest_of(const fs::path& folder, const std::string& stem) {
  const mole::Checkpoint weights(folder, stem);
  mole::Fingerprint digest;
  for (const auto& name : weights.names()) add_to_digest(digest, weights, name);
  return digest.hex();
}

}  // namespace

bool is_picture_folder(const fs::path& path) {
  return fs::is_directory(path) && (file_exists(path / "model_index.json") || file_exists(path / "unet"));
}

std::string find_variant(const fs::path& folder) {
  for (const std::string variant : {"", "fp16", "non_ema"})
    if (has_weights(folder, variant)) return variant;
  // Says what is there instead.
  mole::Checkpoint(folder / "unet", mole::diffusers_stem());
  return "";
}

PictureFiles read_picture_files(const fs::path& folder, const std::string& variant) {
  MOLE_CHECK_AS(mole::Error, file_exists(folder), folder,
                "is not there; give a folder of diffusers with Stable Diffusion 1 or 2");
  MOLE_CHECK_AS(
      mole::Error, is_picture_folder(folder), folder,
      "is no folder of diffusers: it holds neither model_index.json nor unet/. A single file such as "
      "v1-5-pruned.safetensors must be converted first (StableDiffusionPipeline.from_single_file in "
      "diffusers)");
  mole::detail::check_pipeline(folder);
  for (const auto& part : parts) {
    const auto at = folder / part.folder;
    MOLE_CHECK_AS(mole::Error, file_exists(at), folder, "has no", std::string(part.folder) + "/" + remedy);
    MOLE_CHECK_AS(mole::Error, *part.config == '\0' || file_exists(at / part.config), at, "has no",
                  std::string(part.config) + remedy);
  }
  PictureFiles files;
  files.path = folder;
  files.variant = variant.empty() ? find_variant(folder) : variant;
  files.unet = mole::read_unet_config(folder / "unet" / "config.json");
  files.vae = mole::read_vae_config(folder / "vae" / "config.json");
  files.text = mole::read_clip_text_config(folder / "text_encoder" / "config.json");
  const auto scheduler = folder / "scheduler" / "scheduler_config.json";
  files.schedule = mole::read_schedule_config(scheduler);
  const auto json = mole::read_json_object(scheduler);
  files.scheduler =
      mole::detail::ConfigFields(json, mole::message(scheduler) + ":").text("_class_name", "not said");
  // Models without weights know their layers.
  const mole::UNet<float, mole::Cpu> unet(files.unet);
  const mole::ClipText<float, mole::Cpu> text(files.text);
  files.unet_slots = mole::slot_catalogue(unet.layers().table);
  files.text_slots = mole::slot_catalogue(text.layers().table);
  const auto stem = mole::diffusers_stem(files.variant);
  const auto text_stem = files.variant.empty() ? std::string("model") : "model." + files.variant;
  files.digest = digest_of(folder / "unet", stem);
  files.vae_digest = digest_of(folder / "vae", stem);
  files.text_digest = digest_of(folder / "text_encoder", text_stem);
  for (const char* part : {"unet", "vae"}) files.parameters += parameters_of(folder / part, stem);
  files.parameters += parameters_of(folder / "text_encoder", text_stem);
  return files;
}

PictureSize picture_size(const std::string& text, Index factor) {
  const auto whole = [&](std::string_view part) {
    Index value = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    MOLE_CHECK_ARG(
        error == std::errc() && end == part.data() + part.size() && value > 0 && value <= 8192, "--size",
        text + ": expected pixels such as 512, or WIDTHxHEIGHT such as 768x512, of at most 8192 a side");
    if (value % factor != 0) {
      const Index below = value / factor * factor;
      throw mole::ArgumentError(mole::message("--size", text + ":", value, "is no multiple of", factor,
                                              ", by which the VAE enlarges a latent; the nearest are",
                                              std::max(below, factor), "and", below + factor));
    }
    return value;
  };
  const auto x = text.find('x');
  if (x == text.npos) return {whole(text), whole(text)};
  return {whole(std::string_view(text).substr(0, x)), whole(std::string_view(text).substr(x + 1))};
}

}  // namespace program
