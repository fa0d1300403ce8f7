#pragma once
// A tiny Stable Diffusion as a folder of diffusers: the goldens' UNet, VAE and schedule, a text encoder with random
// weights, and the goldens' CLIP tokenizer. The goldens' LoRAs fit it.

#include <filesystem>
#include <fstream>
#include <string>

#include <mole/backends/cpu.hpp>
#include <mole/models/clip/checkpoint.hpp>
#include <mole/models/diffusion/pipeline.hpp>

#include "text/clip_vocabulary.hpp"

namespace program_test {

/// Pixels of the pictures that it was trained on, and tokens of its prompts.
inline constexpr mole::Index tiny_side = 16, tiny_tokens = 20;

inline std::filesystem::path golden_pictures() {
  return std::filesystem::path(MOLE_TEST_DATA) / "golden/vl/sd1";
}

/// Writes the folder. variant: as in *.fp16.safetensors.
inline void write_pictures(
    const std::filesystem::path& folder, const std::string& variant = "",
    const std::string& tokenizer_config = R"({"tokenizer_class": "CLIPTokenizer", "model_max_length": 20})") {
  namespace fs = std::filesystem;
  const auto base = golden_pictures() / "base";
  for (const char* part : {"unet", "vae", "scheduler"}) {
    fs::create_directories(folder / part);
    for (const auto& entry : fs::directory_iterator(base / part)) {
      auto name = entry.path().filename().string();
      if (const auto at = name.find(".safetensors"); at != name.npos && !variant.empty())
        name.insert(at, "." + variant);
      fs::copy_file(entry.path(), folder / part / name, fs::copy_options::overwrite_existing);
    }
  }
  auto config = mole::read_clip_text_config(base / "text_encoder" / "config.json");
  config.vocabulary = 700;
  config.positions = tiny_tokens;
  config.eos_token_id = 1;
  mole::ClipText<float, mole::Cpu> text(config);
  mole::Generator random{11};
  text.initialize(random);
  // Words shall differ much.
  text.visit([](const std::string& name, const mole::Shape&, auto& tensor) {
    if (name.find("token_embedding") != name.npos) tensor = scale(tensor, 40.f);
  });
  mole::save_clip_text(folder / "text_encoder", text, mole::Dtype::F32);
  if (!variant.empty())
    fs::rename(folder / "text_encoder/model.safetensors",
               folder / "text_encoder" / ("model." + variant + ".safetensors"));
  text_test::write_clip_tokenizer(folder / "tokenizer", tokenizer_config);
  const auto part = [](const char* library, const char* name) { return mole::Json::array({library, name}); };
  const auto none = mole::Json::array({nullptr, nullptr});
  mole::write_json(folder / "model_index.json", {{"_class_name", "StableDiffusionPipeline"},
                                                 {"feature_extractor", none},
                                                 {"requires_safety_checker", false},
                                                 {"safety_checker", none},
                                                 {"scheduler", part("diffusers", "PNDMScheduler")},
                                                 {"text_encoder", part("transformers", "CLIPTextModel")},
                                                 {"tokenizer", part("transformers", "CLIPTokenizer")},
                                                 {"unet", part("diffusers", "UNet2DConditionModel")},
                                                 {"vae", part("diffusers", "AutoencoderKL")}});
}

/// Writes a tiny CLIP with random weights, and a tokenizer.
inline void write_guide(const std::filesystem::path& folder) {
  auto config =
      mole::read_clip_config(std::filesystem::path(MOLE_TEST_DATA) / "golden/vl/clip/base/config.json");
  config.text.vocabulary = 700;
  config.text.positions = tiny_tokens;
  config.text.eos_token_id = 1;
  mole::Clip<float, mole::Cpu> clip(config);
  mole::Generator random{12};
  clip.initialize(random);
  mole::save_clip(folder, clip, mole::Dtype::F32);
  text_test::write_clip_tokenizer(folder);
}

}  // namespace program_test
