#pragma once
// Kinds of saves: models of pictures and texts, whose weights and configuration are two files.

#include <cmath>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <mole/backends/cpu.hpp>
#include <mole/models/clip/checkpoint.hpp>
#include <mole/models/unet/checkpoint.hpp>
#include <mole/models/vae/checkpoint.hpp>

/// Something that is saved to a folder: save(folder, version), and the version that load(folder) finds.
struct Kind {
  std::string name;
  std::function<void(const std::filesystem::path&, int)> save;
  std::function<int(const std::filesystem::path&)> load;
  std::size_t files;
};

/// Of tensors in the same shapes whatever the version, which is in each number and in a field of the configuration: no
/// shape tells weights of one version from a configuration of the other.
template <class Model, class Config>
Model filled(const Config& config, int version) {
  Model model(config);
  model.visit([&](const auto&, const mole::Shape& shape, auto& x) {
    x = mole::Tensor<float, mole::Cpu>::full(shape, static_cast<float>(version));
  });
  return model;
}

/// The version of such a model, by its weights; 0 where they are of several, or of another than its configuration.
template <class Model>
int version_of(Model& model, double configured) {
  int version = static_cast<int>(std::lround(configured));
  model.visit([&](const auto&, const mole::Shape&, auto& x) {
    const auto values = x.to_host();
    if (values != std::vector<float>(values.size(), static_cast<float>(configured))) version = 0;
  });
  return version;
}

inline mole::UNetConfig unet_config(int version) {
  mole::UNetConfig config;
  config.channels = {2};
  config.down_attention = config.up_attention = {false};
  config.heads = {1};
  config.layers = 1;
  config.text_width = 2;
  config.norm_groups = version;
  return config;
}

inline mole::VaeConfig vae_config(int version) {
  mole::VaeConfig config;
  config.channels = {2};
  config.layers = 1;
  config.norm_groups = 1;
  config.scaling_factor = version;
  return config;
}

inline mole::ClipTextConfig clip_text_config(int version) {
  mole::ClipTextConfig config;
  config.hidden = 2;
  config.intermediate = 3;
  config.layers = 1;
  config.heads = 1;
  config.vocabulary = 5;
  config.positions = 4;
  config.eos_token_id = version;
  return config;
}

inline mole::ClipConfig clip_config(int version) {
  mole::ClipConfig config;
  config.text = clip_text_config(3);
  config.vision.hidden = 2;
  config.vision.intermediate = 3;
  config.vision.layers = 1;
  config.vision.heads = version;
  config.vision.image_size = 4;
  config.vision.patch_size = 2;
  config.projection = config.text.projection = config.vision.projection = 3;
  return config;
}

/// A model that `save` writes and `load` reads; `field` gives the version in its configuration.
template <class Model, class Config, class Save, class Load, class Field>
Kind pair_of(const char* name, Config config, Save save, Load load, Field field) {
  return {name,
          [=](const std::filesystem::path& to, int version) {
            auto model = filled<Model>(config(version), version);
            save(to, model, mole::Dtype::F32);
          },
          [=](const std::filesystem::path& from) {
            auto model = load(from);
            return version_of(model, static_cast<double>(field(model.config())));
          },
          2};
}

inline std::vector<Kind> model_pairs() {
  using B = mole::Cpu;
  using Path = std::filesystem::path;
  return {pair_of<mole::UNet<float, B>>(
              "unet", unet_config, mole::save_unet<float, B>,
              [](const Path& from) { return mole::load_unet<float, B>(from); },
              [](const mole::UNetConfig& c) { return c.norm_groups; }),
          pair_of<mole::Vae<float, B>>(
              "vae", vae_config, mole::save_vae<float, B>,
              [](const Path& from) { return mole::load_vae<float, B>(from); },
              [](const mole::VaeConfig& c) { return c.scaling_factor; }),
          pair_of<mole::Clip<float, B>>(
              "clip", clip_config, mole::save_clip<float, B>,
              [](const Path& from) { return mole::load_clip<float, B>(from); },
              [](const mole::ClipConfig& c) { return c.vision.heads; }),
          pair_of<mole::ClipText<float, B>>(
              "clip-text", clip_text_config, mole::save_clip_text<float, B>,
              [](const Path& from) { return mole::load_clip_text<float, B>(from); },
              [](const mole::ClipTextConfig& c) { return c.eos_token_id; })};
}
