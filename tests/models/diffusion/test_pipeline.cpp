// Folders of diffusers: what is refused, by key and with the reason; what is written loads again.

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <string>
#include <type_traits>

#include <doctest/doctest.h>
#include <io/folder.hpp>
#include <mole/backends/cpu.hpp>
#include <mole/models/diffusion/pipeline.hpp>

namespace mole::pipelines {

using io_test::error_of;
using io_test::Folder;
using io_test::mentions;
using io_test::write_text;

namespace {

const std::filesystem::path sd1 = io_test::golden("vl/sd1/base"), sd2 = io_test::golden("vl/sd2/base");

/// The error of reading a JSON file with one key set.
template <class Read>
std::string with_key(const std::filesystem::path& config, const std::string& key, const Json& value,
                     Read read) {
  const Folder folder;
  auto json = read_json(config);
  json[key] = value;
  write_json(folder / "config.json", json);
  return error_of<FormatError>([&] { read(folder / "config.json"); });
}

}  // namespace

TEST_CASE("A UNet outside Stable Diffusion 1 and 2 is refused by key, with the reason") {
  const auto error = [](const std::string& key, const Json& value) {
    return with_key(sd1 / "unet/config.json", key, value, [](const auto& path) { read_unet_config(path); });
  };
  for (const auto& one :
       std::initializer_list<std::pair<std::string, Json>>{{"num_attention_heads", 8},
                                                           {"only_cross_attention", true},
                                                           {"only_cross_attention", {true, false}},
                                                           {"dual_cross_attention", true},
                                                           {"class_embed_type", "timestep"},
                                                           {"num_class_embeds", 10},
                                                           {"addition_embed_type", "text_time"},
                                                           {"encoder_hid_dim", 4},
                                                           {"encoder_hid_dim_type", "text_proj"},
                                                           {"time_embedding_type", "fourier"},
                                                           {"time_cond_proj_dim", 256},
                                                           {"resnet_time_scale_shift", "scale_shift"},
                                                           {"conv_in_kernel", 5},
                                                           {"conv_out_kernel", 1},
                                                           {"mid_block_scale_factor", 2},
                                                           {"center_input_sample", true},
                                                           {"transformer_layers_per_block", {1, 2}},
                                                           {"attention_type", "gated"},
                                                           {"act_fn", "gelu"},
                                                           {"mid_block_type", "UNetMidBlock2D"},
                                                           {"_class_name", "UNet2DModel"}})
    CHECK_MESSAGE(mentions(error(one.first, one.second), {one.first, "not supported"}), one.first);
  CHECK(mentions(error("in_channels", 9), {"in_channels", "inpainting"}));
  CHECK(mentions(error("down_block_types", {"AttnDownBlock2D", "DownBlock2D"}),
                 {"down_block_types", "AttnDownBlock2D", "CrossAttnDownBlock2D"}));
  CHECK(mentions(error("attention_head_dim", {2, 2, 2}), {"attention_head_dim"}));
  CHECK(mentions(error("attention_head_dim", 5), {"heads", "5"}));
  CHECK(mentions(error("norm_num_groups", 5), {"groups", "5"}));
  CHECK(mentions(error("block_out_channels", Json::array()), {"block_out_channels"}));
  for (const auto& one :
       std::initializer_list<std::pair<std::string, Json>>{{"upcast_attention", true},
                                                           {"sample_size", {64, 96}},
                                                           {"dropout", 0.1},
                                                           {"transformer_layers_per_block", {1, 1}}})
    CHECK_MESSAGE(error(one.first, one.second).empty(), one.first);
}

TEST_CASE("A VAE or a scheduler outside the subset is refused by key, with the reason") {
  const auto vae = [](const std::string& key, const Json& value) {
    return with_key(sd1 / "vae/config.json", key, value, [](const auto& path) { read_vae_config(path); });
  };
  CHECK(mentions(vae("latents_mean", {0.1}), {"latents_mean", "shifted"}));
  CHECK(mentions(vae("shift_factor", 0.1), {"shift_factor"}));
  CHECK(mentions(vae("use_quant_conv", false), {"use_quant_conv"}));
  CHECK(mentions(vae("down_block_types", {"AttnDownEncoderBlock2D", "DownEncoderBlock2D"}),
                 {"down_block_types"}));
  const auto schedule = [](const std::string& key, const Json& value) {
    return with_key(sd1 / "scheduler/scheduler_config.json", key, value,
                    [](const auto& path) { read_schedule_config(path); });
  };
  CHECK(mentions(schedule("thresholding", true), {"thresholding"}));
  CHECK(mentions(schedule("trained_betas", {0.1, 0.2}), {"trained_betas"}));
  CHECK(mentions(schedule("rescale_betas_zero_snr", true), {"rescale_betas_zero_snr"}));
  CHECK(mentions(schedule("prediction_type", "sample"), {"prediction_type", "sample", "v_prediction"}));
  CHECK(mentions(schedule("beta_schedule", "sigmoid"), {"beta_schedule", "squaredcos_cap_v2"}));
  CHECK(mentions(schedule("beta_end", 2), {"beta_end"}));
}

TEST_CASE("A scheduler's absent keys have the defaults of diffusers, not those of Stable Diffusion") {
  const Folder folder;
  write_text(folder / "s.json", R"({"_class_name": "DDIMScheduler"})");
  const auto c = read_schedule_config(folder / "s.json");
  CHECK(c.clip_sample);
  CHECK(c.set_alpha_to_one);
  CHECK(c.steps_offset == 0);
  CHECK(c.beta_start == 0.0001);
  CHECK(c.betas == BetaSchedule::linear);
  write_json(folder / "t.json",
             schedule_config_json(read_schedule_config(sd2 / "scheduler/scheduler_config.json")));
  const auto again = read_schedule_config(folder / "t.json");
  CHECK(again.prediction == Prediction::velocity);
  CHECK_FALSE(again.clip_sample);
  CHECK(again.steps_offset == 1);
}

TEST_CASE("A saved pipeline loads to the same output") {
  const Folder folder;
  for (const auto& from : {sd1, sd2}) {
    auto model = load_stable_diffusion<float, Cpu>(from);
    save_stable_diffusion(folder.path, model, Dtype::F32);
    const auto again = load_stable_diffusion<float, Cpu>(folder.path);
    const auto ids = Tensor<Index, Cpu>::from({1, 3}, {1, 2, 60});
    const auto latents = Tensor<float, Cpu>::randn({1, 3, 5, 4}, {1, 2});
    const auto time = Tensor<Index, Cpu>::from({1}, {700});
    MolePass<float, Cpu> one, two;
    CHECK(model.unet(latents, time, model.states(ids), one).to_host() ==
          again.unet(latents, time, again.states(ids), two).to_host());
    CHECK(model.vae.image01(latents).to_host() == again.vae.image01(latents).to_host());
    CHECK(model.schedule.alphas_cumprod() == again.schedule.alphas_cumprod());
  }
}

TEST_CASE_TEMPLATE(
    "The two files of a saved UNet or VAE belong together, and foreign ones need no sign of it", T,
    UNet<float, Cpu>, Vae<float, Cpu>) {
  constexpr bool is_unet = std::is_same_v<T, UNet<float, Cpu>>;
  const auto load = [](const std::filesystem::path& path) {
    if constexpr (is_unet)
      return load_unet<float, Cpu>(path);
    else
      return load_vae<float, Cpu>(path);
  };
  const auto save = [](const std::filesystem::path& path, T& model) {
    if constexpr (is_unet)
      save_unet(path, model, Dtype::F32);
    else
      save_vae(path, model, Dtype::F32);
  };
  const char* const weights = "diffusion_pytorch_model.safetensors";
  const Folder folder;
  auto model = load(sd1 / (is_unet ? "unet" : "vae"));
  save(folder / "a", model);
  // The same tensors, read in another way.
  auto json = read_json(folder / "a/config.json");
  json[is_unet ? "norm_eps" : "scaling_factor"] = 0.25;
  std::filesystem::create_directories(folder / "foreign");
  write_json(folder / "foreign/config.json", json);
  const SafetensorsFile file(folder / "a" / weights);
  SafetensorsWriter writer;  // as files of others and of earlier versions, without a digest
  writer.metadata("format", "pt");
  for (const auto& name : file.names())
    writer.add(name, Dtype::F32, file.at(name).shape, file.read<float>(name));
  writer.write(folder / "foreign" / weights);
  auto other = load(folder / "foreign");
  save(folder / "b", other);
  load(folder / "b");
  std::filesystem::copy_file(folder / "b/config.json", folder / "a/config.json",
                             std::filesystem::copy_options::overwrite_existing);
  CHECK(mentions(error_of<FormatError>([&] { load(folder / "a"); }),
                 {weights, "config.json", "Save both again"}));
  // What other programs write of the same configuration: their own keys, another sample_size.
  save(folder / "a", model);
  json = read_json(folder / "a/config.json");
  json["_diffusers_version"] = "0.35.1";
  json["sample_size"] = 8;
  json["force_upcast"] = true;
  write_json(folder / "a/config.json", json);
  CHECK(load(folder / "a").config().sample_size == 8);
}

TEST_CASE("What is no pipeline of Stable Diffusion is refused") {
  const Folder folder;
  CHECK(mentions(error_of<Error>([&] { load_stable_diffusion<float, Cpu>(folder.path); }),
                 {"model_index.json"}));
  write_text(folder / "model_index.json", R"({"_class_name": "StableDiffusionXLPipeline"})");
  CHECK(mentions(error_of<FormatError>([&] { load_stable_diffusion<float, Cpu>(folder.path); }),
                 {"StableDiffusionXLPipeline"}));
  write_text(
      folder / "model_index.json",
      R"({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "FluxTransformer2DModel"]})");
  CHECK(mentions(error_of<FormatError>([&] { load_stable_diffusion<float, Cpu>(folder.path); }),
                 {"unet", "FluxTransformer2DModel"}));
  // Pickled weights are named.
  std::filesystem::create_directories(folder / "unet");
  std::filesystem::copy(sd1 / "unet/config.json", folder / "unet/config.json");
  write_text(folder / "unet/diffusion_pytorch_model.bin", "x");
  CHECK(mentions(error_of<Error>([&] { load_unet<float, Cpu>(folder / "unet"); }),
                 {"diffusion_pytorch_model.bin", "safetensors"}));
}

TEST_CASE("A UNet refuses inputs that do not fit and names them") {
  const auto unet = load_unet<float, Cpu>(sd1 / "unet");
  MolePass<float, Cpu> pass;
  using Tn = Tensor<float, Cpu>;
  const auto latents = Tn::zeros({2, 4, 4, 4}), text = Tn::zeros({2, 3, 24});
  const auto time = Tensor<Index, Cpu>::from({1}, {5});
  CHECK(unet(latents, time, text, pass).shape() == latents.shape());
  CHECK_THROWS_AS(unet(Tn::zeros({2, 4, 4, 3}), time, text, pass), ShapeError);
  CHECK_THROWS_AS(unet(latents, time, Tn::zeros({2, 3, 20}), pass), ShapeError);
  CHECK_THROWS_AS(unet(latents, time, Tn::zeros({1, 3, 24}), pass), ShapeError);
  CHECK_THROWS_AS(unet(latents, Tensor<Index, Cpu>::from({3}, {1, 2, 3}), text, pass), ShapeError);
}

TEST_CASE("The samplers refuse steps outside the grid and noise that is missing") {
  const NoiseSchedule schedule;
  CHECK_THROWS_AS(schedule.timesteps(0), ArgumentError);
  CHECK_THROWS_AS(schedule.timesteps(1001), ArgumentError);
  // With SD's offset of 1 the first of 1000 steps is outside.
  CHECK_THROWS_AS(schedule.timesteps(1000), ArgumentError);
  const auto x = Tensor<double, Cpu>::ones({1, 2});
  CHECK_THROWS_AS(schedule.ddpm(x, x, {500, 480}, {}), ArgumentError);
  CHECK_THROWS_AS(schedule.ddim(x, x, {500, 480}, 0.5), ArgumentError);
  CHECK_THROWS_AS(schedule.ddim(x, x, {1000, 980}), ArgumentError);
  CHECK_THROWS_AS(NoiseSchedule({.beta_start = 0.5, .beta_end = 0.1}), ArgumentError);
  // Without noise in the output a step of DDIM to a = 1 gives the clean sample, cut where told to.
  ScheduleConfig cut;
  cut.clip_sample = cut.set_alpha_to_one = true;
  const auto clean = NoiseSchedule(cut).ddim(Tensor<double, Cpu>::zeros({1, 2}), x, {999, -1});
  CHECK(clean.to_host() == std::vector<double>{1, 1});
}

TEST_CASE("A step of DDIM with eta 1 between neighbours is that of DDPM") {
  const NoiseSchedule schedule;
  const auto x = Tensor<double, Cpu>::randn({2, 3}, {1, 1}), o = Tensor<double, Cpu>::randn({2, 3}, {1, 2}),
             n = Tensor<double, Cpu>::randn({2, 3}, {1, 3});
  const auto a = schedule.ddim(o, x, {500, 499}, 1, n).to_host(),
             b = schedule.ddpm(o, x, {500, 499}, n).to_host();
  for (std::size_t i = 0; i < a.size(); ++i) CHECK(a[i] == doctest::Approx(b[i]).epsilon(1e-10));
}

TEST_CASE("A UNet whose downsample_padding is 0 pads at the right and at the bottom, as diffusers does") {
  // A kernel of one number at its corner then reads what one with that number at its centre reads with a padding of 1.
  const auto model = [](Index padding, std::size_t tap) {
    auto config = read_unet_config(sd1 / "unet/config.json");
    config.downsample_padding = padding;
    auto stored = load_unet<double, Cpu>(sd1 / "unet");
    std::map<std::string, Tensor<double, Cpu>> weights;
    stored.visit([&](const std::string& name, const Shape&, auto& tensor) { weights[name] = tensor; });
    UNet<double, Cpu> unet(config);
    unet.visit([&](const std::string& name, const Shape& shape, auto& tensor) {
      tensor = weights.at(name);
      if (!name.ends_with("downsamplers.0.conv.weight")) return;
      REQUIRE(shape[2] * shape[3] == 9);
      auto values = tensor.to_host();
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = i % 9 == tap ? values[i / 9 * 9 + 4] : 0;
      tensor = Tensor<double, Cpu>::from(shape, values);
    });
    return unet;
  };
  const auto at_corner = model(0, 0), at_centre = model(1, 4);
  const auto x = Tensor<double, Cpu>::randn({1, 8, 12, 4}, {1, 1}),
             text = Tensor<double, Cpu>::randn({1, 3, 24}, {1, 2});
  const auto time = Tensor<Index, Cpu>::from({1}, {321});
  const NoGrad off;
  MolePass<double, Cpu> pass;
  const auto found = at_corner(x, time, text, pass).to_host(),
             expected = at_centre(x, time, text, pass).to_host();
  REQUIRE(found.size() == expected.size());
  double worst = 0;
  for (std::size_t i = 0; i < found.size(); ++i) worst = std::max(worst, std::abs(found[i] - expected[i]));
  CHECK(worst <= 1e-12);
}

}  // namespace mole::pipelines
