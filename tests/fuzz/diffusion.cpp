// Folders of Stable Diffusion, and the files of its LoRAs.

#include <cmath>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <mole/backends/cpu.hpp>
#include <mole/models/diffusion/lora_file.hpp>
#include <mole/models/diffusion/pipeline.hpp>

#include "harness.hpp"

namespace mole_fuzz {

namespace {

using mole::Dtype;
using mole::Index;
using mole::Shape;
using Tensor = mole::Tensor<float, mole::Cpu>;
using Ids = mole::Tensor<Index, mole::Cpu>;
using Add = std::function<void(const std::vector<std::string>&)>;

constexpr const char* diffusers_file = "diffusion_pytorch_model.safetensors";

mole::UNetConfig unet_config() {
  mole::UNetConfig config;
  config.in_channels = config.out_channels = 2;
  config.channels = {4, 4};
  config.down_attention = {true, false};
  config.up_attention = {false, true};
  config.heads = {2, 2};
  config.layers = 1;
  config.text_width = 6;
  config.norm_groups = 2;
  return config;
}

mole::VaeConfig vae_config() {
  mole::VaeConfig config;
  config.latent_channels = 2;
  config.channels = {4, 4};
  config.layers = 1;
  config.norm_groups = 2;
  return config;
}

mole::ClipTextConfig text_config() {
  mole::ClipTextConfig config;
  config.hidden = 6;
  config.intermediate = 5;
  config.layers = 1;
  config.heads = 2;
  config.vocabulary = 7;
  config.positions = 4;
  config.eos_token_id = 6;
  return config;
}

mole::ClipConfig clip_config() {
  mole::ClipConfig config;
  config.text = text_config();
  config.vision.hidden = 4;
  config.vision.intermediate = 5;
  config.vision.layers = 1;
  config.vision.heads = 2;
  config.vision.image_size = 4;
  config.vision.patch_size = 2;
  config.projection = config.text.projection = config.vision.projection = 3;
  return config;
}

template <class Model>
Model filled(Model model) {
  mole::Generator generator{42};
  model.visit([&](const std::string&, const Shape& shape, Tensor& tensor) {
    tensor = mole::scale(Tensor::randn(shape, generator.next()), 0.1F);
  });
  return model;
}

template <class Model>
std::vector<std::vector<float>> weights(Model& model) {
  std::vector<std::vector<float>> list;
  model.visit([&](const std::string&, const Shape&, Tensor& tensor) { list.push_back(tensor.to_host()); });
  return list;
}

/// What is asked of each model: its warnings can be printed, use(model) ends, and what it writes reads the same.
template <class Load, class Save, class Use>
void test_model(const std::string& name, const char* stem, const std::vector<std::string>& parts, Load load,
                Save save, Use use) {
  const auto from = folder() / name, to = folder() / (name + "-again");
  write_bytes(from / "config.json", parts.front());
  write_bytes(from / stem, parts.back());
  accepts([&] {
    std::vector<std::string> warnings;
    auto model = load(from, &warnings);
    for (const auto& warning : warnings) check_message(warning);
    // A model may be too small for a picture, or too large for this test.
    accepts_or<mole::ArgumentError, mole::ShapeError>([&] { use(model); });
    accepts([&] {
      save(to, model);
      auto copy = load(to, nullptr);
      // NaN is unlike itself.
      require(!warnings.empty() || weights(copy) == weights(model), "other weights after a round trip");
    });
  });
}

void run_unet(const mole::UNet<float, mole::Cpu>& unet) {
  const auto& c = unet.config();
  if (c.in_channels > 64 || c.text_width > 4096) return;
  const mole::NoGrad off;
  mole::MolePass<float, mole::Cpu> pass;
  const auto y = unet(Tensor::zeros({1, 4, 4, c.in_channels}), Ids::from({1}, {3}),
                      Tensor::zeros({1, 2, c.text_width}), pass);
  require(y.shape() == Shape({1, 4, 4, c.out_channels}), "an output of another shape");
}

void test_unet(const std::vector<std::string>& parts) {
  using Model = mole::UNet<float, mole::Cpu>;
  test_model(
      "unet", diffusers_file, parts,
      [](const auto& path, std::vector<std::string>* warnings) {
        return mole::load_unet<float, mole::Cpu>(path, "", warnings);
      },
      [](const auto& path, Model& model) { mole::save_unet(path, model, Dtype::F32); }, run_unet);
}

void test_vae(const std::vector<std::string>& parts) {
  using Model = mole::Vae<float, mole::Cpu>;
  test_model(
      "vae", diffusers_file, parts,
      [](const auto& path, std::vector<std::string>* warnings) {
        return mole::load_vae<float, mole::Cpu>(path, "", warnings);
      },
      [](const auto& path, Model& model) { mole::save_vae(path, model, Dtype::F32); },
      [](const Model& vae) {
        if (vae.config().latent_channels > 64) return;
        const mole::NoGrad off;
        vae.image01(Tensor::zeros({1, 2, 2, vae.config().latent_channels}));
      });
}

void test_clip(const std::vector<std::string>& parts) {
  using Clip = mole::Clip<float, mole::Cpu>;
  using Text = mole::ClipText<float, mole::Cpu>;
  const auto ids = Ids::from({1, 2}, {0, 1});
  const mole::NoGrad off;
  mole::MolePass<float, mole::Cpu> pass;
  test_model(
      "clip-text", "model.safetensors", {parts[0], parts[2]},
      [](const auto& path, std::vector<std::string>* warnings) {
        return mole::load_clip_text<float, mole::Cpu>(path, warnings);
      },
      [](const auto& path, Text& model) { mole::save_clip_text(path, model, Dtype::F32); },
      [&](const Text& text) { text.pooled(text.states(ids, pass), ids); });
  test_model(
      "clip", "model.safetensors", {parts[0], parts[2]},
      [](const auto& path, std::vector<std::string>* warnings) {
        return mole::load_clip<float, mole::Cpu>(path, warnings);
      },
      [](const auto& path, Clip& model) { mole::save_clip(path, model, Dtype::F32); },
      [&](const Clip& clip) {
        clip.text.features(ids, pass);
        const auto& c = clip.vision.config();
        if (c.image_size > 64 || c.channels > 16) return;
        clip.vision.features(Tensor::zeros({1, c.image_size, c.image_size, c.channels}), pass);
      });
  const auto images = folder() / "preprocessor_config.json";
  write_bytes(images, parts[1]);
  accepts([&] { mole::read_clip_image_options(images); });
}

/// Weights that name no configuration, as those of other programs: else no change of it would get past its digest.
std::string unpaired(const std::filesystem::path& weights) {
  {
    const mole::SafetensorsFile file(weights);
    mole::SafetensorsWriter writer;
    for (const auto& name : file.names()) {
      const auto& view = file.at(name);
      writer.add(name, view.dtype, view.shape, file.read<float>(name));
    }
    writer.write(weights);
  }
  return read_bytes(weights);
}

void seed_unet(const Add& add) {
  const auto path = folder() / "seed-unet";
  auto linear = unet_config();
  linear.linear_projection = true;
  for (const auto& config : {unet_config(), linear}) {
    auto model = filled(mole::UNet<float, mole::Cpu>(config));
    mole::save_unet(path, model, Dtype::F16);
    add({read_bytes(path / "config.json"), unpaired(path / diffusers_file)});
  }
}

void seed_vae(const Add& add) {
  const auto path = folder() / "seed-vae";
  auto model = filled(mole::Vae<float, mole::Cpu>(vae_config()));
  mole::save_vae(path, model, Dtype::F16);
  add({read_bytes(path / "config.json"), unpaired(path / diffusers_file)});
}

void seed_clip(const Add& add) {
  const auto path = folder() / "seed-clip";
  const std::string images =
      R"({"size":{"shortest_edge":4},"crop_size":{"height":4,"width":4},"image_mean":[0.5,0.4,0.3],)"
      R"("image_std":[0.2,0.2,0.3],"resample":3,"do_center_crop":true})";
  auto clip = filled(mole::Clip<float, mole::Cpu>(clip_config()));
  mole::save_clip(path, clip, Dtype::F16);
  add({read_bytes(path / "config.json"), images, unpaired(path / "model.safetensors")});
  auto text = filled(mole::ClipText<float, mole::Cpu>(text_config()));
  mole::save_clip_text(path, text, Dtype::F16);
  add({read_bytes(path / "config.json"), images, unpaired(path / "model.safetensors")});
}

/// The weights of a pipeline, which stay: what is mutated are its five configurations.
const std::filesystem::path& pipeline_weights() {
  static const auto path = [] {
    const auto at = folder() / "pipeline";
    mole::StableDiffusion<float, mole::Cpu> model{filled(mole::ClipText<float, mole::Cpu>(text_config())),
                                                  filled(mole::UNet<float, mole::Cpu>(unet_config())),
                                                  filled(mole::Vae<float, mole::Cpu>(vae_config())),
                                                  mole::NoiseSchedule()};
    mole::save_stable_diffusion(at, model, Dtype::F32);
    for (const char* part : {"unet", "vae"}) unpaired(at / part / diffusers_file);
    unpaired(at / "text_encoder/model.safetensors");
    return at;
  }();
  return path;
}

constexpr const char* pipeline_files[] = {"model_index.json", "scheduler/scheduler_config.json",
                                          "unet/config.json", "vae/config.json", "text_encoder/config.json"};

void test_pipeline(const std::vector<std::string>& parts) {
  const auto& path = pipeline_weights();
  for (std::size_t i = 0; i < parts.size(); ++i) write_bytes(path / pipeline_files[i], parts[i]);
  accepts([&] {
    std::vector<std::string> warnings;
    const auto model = mole::load_stable_diffusion<float, mole::Cpu>(path, "", &warnings);
    for (const auto& warning : warnings) check_message(warning);
    const auto& alphas = model.schedule.alphas_cumprod();
    for (std::size_t i = 0; i < alphas.size(); ++i)
      require(alphas[i] >= 0 && alphas[i] < (i == 0 ? 1 : alphas[i - 1] + 1e-300),
              "noise that does not grow");
    const mole::NoGrad off;
    accepts_or<mole::ArgumentError>([&] {  // steps whose offset leads beyond the grid
      const auto states = model.states(Ids::from({1, 2}, {0, 1}));
      const auto c = model.unet.config().in_channels;
      const auto latents =
          mole::sample(model.unet, model.schedule, Tensor::zeros({1, 2, 2, c}), states, states, {.steps = 1});
      require(latents.shape() == Shape({1, 2, 2, c}), "latents of another shape");
    });
  });
}

void seed_pipeline(const Add& add) {
  const auto& path = pipeline_weights();
  std::vector<std::string> parts;
  for (const char* file : pipeline_files) parts.push_back(read_bytes(path / file));
  add(parts);
  parts[1] =
      R"({"_class_name":"PNDMScheduler","beta_start":0.00085,"beta_end":0.012,"beta_schedule":"scaled_linear",)"
      R"("num_train_timesteps":100,"set_alpha_to_one":false,"steps_offset":1,"clip_sample":false,)"
      R"("prediction_type":"v_prediction","timestep_spacing":"trailing","trained_betas":null})";
  add(parts);
}

struct Catalogues {
  mole::SlotCatalogue unet, text;
};

const Catalogues& catalogues() {
  static const Catalogues made{
      mole::slot_catalogue(mole::UNet<float, mole::Cpu>(unet_config()).layers().table),
      mole::slot_catalogue(mole::ClipText<float, mole::Cpu>(text_config()).layers().table)};
  return made;
}

/// Whether two parts are the same experts; NaN is unlike itself.
void check_same(const mole::LoraSet& a, const mole::LoraSet& b) {
  require(a.slots == b.slots, "other slots after a round trip");
  for (const auto& slot : a.slots) {
    const auto x = a.factors(slot), y = b.factors(slot);
    require(x.rank == y.rank && x.d_in == y.d_in && x.d_out == y.d_out, "another shape after a round trip");
    require(x.A == y.A && x.B == y.B, "other factors after a round trip");
    require(std::abs(x.scale - y.scale) <= 1e-12 * std::abs(x.scale), "another scale after a round trip");
  }
}

void test_diffusion_lora(const std::vector<std::string>& parts) {
  const auto from = folder() / "lora", to = folder() / "lora-again";
  const auto &unet = catalogues().unet, &text = catalogues().text;
  write_bytes(from / "x.safetensors", parts[0]);
  accepts([&] {
    const auto lora = mole::load_diffusion_lora(from / "x.safetensors", unet, text);
    for (const auto& warning : lora.warnings) check_message(warning);
    require(!lora.unet.slots.empty() || !lora.text.slots.empty(), "a LoRA that adapts nothing");
    for (const auto* part : {&lora.unet, &lora.text})
      for (const auto& slot : part->slots)
        require(std::isfinite(part->factors(slot).scale), "a scale that is not finite");
    if (!lora.warnings.empty()) return;
    // In float as it is written; numbers of F64 that are no floats, and those too large for one, read back rounded.
    std::filesystem::remove_all(to);
    accepts_or<mole::ArgumentError>([&] {
      mole::save_diffusers_lora(to, lora, unet, text, Dtype::F32);
      const auto copy = mole::load_diffusion_lora(to, unet, text);
      mole::save_diffusers_lora(to / "twice", copy, unet, text, Dtype::F32);
      const auto again = mole::load_diffusion_lora(to / "twice", unet, text);
      require(copy.unet.slots == lora.unet.slots && copy.text.slots == lora.text.slots,
              "other slots after a round trip");
      if (!copy.warnings.empty()) return;
      check_same(copy.unet, again.unet);
      check_same(copy.text, again.text);
    });
  });
}

void seed_diffusion_lora(const Add& add) {
  const auto path = folder() / "seed.safetensors";
  const std::string block = "down_blocks.0.attentions.0.transformer_blocks.0.";
  const std::string flat = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_";
  const std::string layer = "text_encoder.text_model.encoder.layers.0.";
  const auto seed = [&](const std::vector<std::pair<std::string, Shape>>& tensors,
                        const std::string& metadata = "") {
    mole::SafetensorsWriter writer;
    for (const auto& [name, shape] : tensors)
      writer.add(name, Dtype::F32, shape, std::vector<float>(static_cast<std::size_t>(shape.size()), 0.5F));
    if (!metadata.empty()) writer.metadata("lora_adapter_metadata", metadata);
    writer.write(path);
    add({read_bytes(path)});
  };
  // The spellings of diffusers.
  seed({{"unet." + block + "attn1.to_q.lora_A.weight", {2, 4}},
        {"unet." + block + "attn1.to_q.lora_B.weight", {4, 2}},
        {"unet." + block + "attn1.to_k.lora.down.weight", {2, 4}},
        {"unet." + block + "attn1.to_k.lora.up.weight", {4, 2}},
        {"unet." + block + "attn1.to_v.lora_linear_layer.down.weight", {1, 4}},
        {"unet." + block + "attn1.to_v.lora_linear_layer.up.weight", {4, 1}},
        {"unet." + block + "attn1.processor.to_out_lora.down.weight", {2, 4}},
        {"unet." + block + "attn1.processor.to_out_lora.up.weight", {4, 2}},
        {"unet.down_blocks.0.resnets.0.conv1.lora_A.weight", {2, 4, 3, 3}},
        {"unet.down_blocks.0.resnets.0.conv1.lora_B.weight", {4, 2, 1, 1}},
        {layer + "self_attn.to_q_lora.down.weight", {1, 6}},
        {layer + "self_attn.to_q_lora.up.weight", {6, 1}},
        {layer + "mlp.fc1.lora_A.weight", {1, 6}},
        {layer + "mlp.fc1.lora_B.weight", {5, 1}}},
       R"({"unet.r":2,"unet.lora_alpha":6,"unet.rank_pattern":{"to_v":1},"unet.alpha_pattern":{"to_k":1},)"
       R"("unet.use_rslora":false,"text_encoder.r":1,"text_encoder.lora_alpha":3})");
  // kohya's and LoCon's.
  seed({{flat + "q.lora_down.weight", {2, 4}},
        {flat + "q.lora_up.weight", {4, 2}},
        {flat + "q.alpha", {}},
        {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", {2, 4, 1, 1}},
        {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight", {4, 2, 1, 1}},
        {"lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight", {2, 4, 3, 3}},
        {"lora_unet_down_blocks_0_resnets_0_conv1.lora_up.weight", {4, 2, 1, 1}},
        {"lora_unet_down_blocks_0_resnets_0_conv1.alpha", {1}},
        {"lora_te_text_model_encoder_layers_0_mlp_fc2.lora_down.weight", {1, 5}},
        {"lora_te_text_model_encoder_layers_0_mlp_fc2.lora_up.weight", {6, 1}}});
}

}  // namespace

std::vector<Target> diffusion_targets() {
  return {{"unet", {Part::json, Part::safetensors}, test_unet, seed_unet},
          {"vae", {Part::json, Part::safetensors}, test_vae, seed_vae},
          {"clip", {Part::json, Part::json, Part::safetensors}, test_clip, seed_clip},
          {"pipeline", std::vector<Part>(5, Part::json), test_pipeline, seed_pipeline},
          {"diffusion_lora", {Part::safetensors}, test_diffusion_lora, seed_diffusion_lora}};
}

}  // namespace mole_fuzz
