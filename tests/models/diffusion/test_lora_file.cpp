// LoRA files of Stable Diffusion's world: spellings, scales, refusals, and what is written.

#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <io/folder.hpp>
#include <mole/backends/cpu.hpp>
#include <mole/compose/linear.hpp>
#include <mole/models/diffusion/lora_file.hpp>
#include <mole/models/diffusion/pipeline.hpp>

namespace mole::lora_files {

using io_test::error_of;
using io_test::Folder;
using io_test::mentions;

namespace {

const std::filesystem::path sd1 = io_test::golden("vl/sd1");
const std::string block = "down_blocks.0.attentions.0.transformer_blocks.0.";
const std::string flat = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.";

const StableDiffusion<double, Cpu>& pipeline() {
  static const auto model = load_stable_diffusion<double, Cpu>(sd1 / "base");
  return model;
}

DiffusionLora load(const std::filesystem::path& path) {
  return load_diffusion_lora(path, pipeline().unet.layers().table, pipeline().text.layers().table);
}

/// A tensor of a file: every element the same.
struct Entry {
  std::string name;
  Shape shape;
  float value = 0.5f;
};

void write(const std::filesystem::path& path, const std::vector<Entry>& entries,
           const std::string& metadata = "") {
  SafetensorsWriter writer;
  for (const auto& [name, shape, value] : entries)
    writer.add(name, Dtype::F32, shape, std::vector<float>(static_cast<std::size_t>(shape.size()), value));
  if (!metadata.empty()) writer.metadata("lora_adapter_metadata", metadata);
  writer.write(path);
}

std::string error(const std::vector<Entry>& entries) {
  const Folder folder;
  write(folder / "x.safetensors", entries);
  return error_of<FormatError>([&] { load(folder / "x.safetensors"); });
}

/// The UNet's output with a LoRA merged.
std::vector<double> output(const LoraSet& set) {
  auto unet = load_unet<double, Cpu>(sd1 / "base/unet");
  merge(unet.layers().table, set);
  MolePass<double, Cpu> pass;
  return unet(Tensor<double, Cpu>::randn({1, 4, 6, 4}, {1, 1}), Tensor<Index, Cpu>::from({1}, {400}),
              Tensor<double, Cpu>::randn({1, 3, 24}, {1, 2}), pass)
      .to_host();
}

}  // namespace

TEST_CASE("Spellings are decided key by key, mixed in one file") {
  const Folder folder;
  const auto path = folder / "x.safetensors";
  write(path, {{"unet." + block + "attn1.to_q.lora_A.weight", {2, 12}},
               {"unet." + block + "attn1.to_q.lora_B.weight", {12, 2}},
               {"unet." + block + "attn1.to_k.lora.down.weight", {2, 12}},
               {"unet." + block + "attn1.to_k.lora.up.weight", {12, 2}},
               {"unet." + block + "attn1.to_v.lora_linear_layer.down.weight", {2, 12}},
               {"unet." + block + "attn1.to_v.lora_linear_layer.up.weight", {12, 2}},
               {"unet." + block + "attn1.processor.to_out_lora.down.weight", {2, 12}},
               {"unet." + block + "attn1.processor.to_out_lora.up.weight", {12, 2}},
               {"unet." + block + "attn2.processor.to_q.lora_A.weight", {2, 12}},
               {"unet." + block + "attn2.processor.to_q.lora_B.weight", {12, 2}},
               {"unet.down_blocks.0.resnets.0.conv1.lora_A.weight", {2, 12, 3, 3}},
               {"unet.down_blocks.0.resnets.0.conv1.lora_B.weight", {12, 2, 1, 1}},
               // An old file of the UNet alone has no prefix.
               {"up_blocks.1.attentions.0.proj_in.lora.down.weight", {3, 12, 1, 1}},
               {"up_blocks.1.attentions.0.proj_in.lora.up.weight", {12, 3, 1, 1}},
               {"text_encoder.text_model.encoder.layers.0.self_attn.to_out_lora.down.weight", {1, 24}},
               {"text_encoder.text_model.encoder.layers.0.self_attn.to_out_lora.up.weight", {24, 1}},
               {"text_encoder.encoder.layers.1.mlp.fc1.lora_A.weight", {1, 24}},
               {"text_encoder.encoder.layers.1.mlp.fc1.lora_B.weight", {40, 1}}});
  const auto lora = load(path);
  CHECK(lora.unet.slots == std::vector<std::string>{block + "attn1.to_k", block + "attn1.to_out.0",
                                                    block + "attn1.to_q", block + "attn1.to_v",
                                                    block + "attn2.to_q", "down_blocks.0.resnets.0.conv1",
                                                    "up_blocks.1.attentions.0.proj_in"});
  CHECK(lora.text.slots == std::vector<std::string>{"text_model.encoder.layers.0.self_attn.out_proj",
                                                    "text_model.encoder.layers.1.mlp.fc1"});
  const auto conv = lora.unet.factors("down_blocks.0.resnets.0.conv1");
  CHECK(conv.d_in == 12 * 9);
  CHECK(conv.rank == 2);
  // Without alpha and metadata the scale is 1.
  CHECK(conv.scale == 1);
  CHECK(lora.unet.name == "x");
  CHECK_FALSE(lora.unet.digest == lora.text.digest);
}

TEST_CASE("alpha counts first, then the metadata, else it is the rank") {
  const Folder folder;
  const auto path = folder / "x.safetensors";
  const std::string q = "unet." + block + "attn1.to_q", k = "unet." + block + "attn1.to_k";
  const std::vector<Entry> factors{{q + ".lora_A.weight", {2, 12}},
                                   {q + ".lora_B.weight", {12, 2}},
                                   {k + ".lora_A.weight", {4, 12}},
                                   {k + ".lora_B.weight", {12, 4}}};
  const std::string metadata = R"({"unet.r": 2, "unet.lora_alpha": 6, "unet.rank_pattern": {"to_k": 4},
                                   "unet.alpha_pattern": {"to_k": 1}, "text_encoder.lora_alpha": 99})";
  write(path, factors, metadata);
  CHECK(load(path).unet.factors(block + "attn1.to_q").scale == 3);
  CHECK(load(path).unet.factors(block + "attn1.to_k").scale == 0.25);
  auto with_alpha = factors;
  with_alpha.push_back({q + ".alpha", {}, 1});
  write(path, with_alpha, metadata);
  CHECK(load(path).unet.factors(block + "attn1.to_q").scale == 0.5);
  write(path, factors, R"({"unet.use_rslora": true, "unet.lora_alpha": 6})");
  CHECK(load(path).unet.factors(block + "attn1.to_k").scale == 3);
  write(path, factors, R"({"unet.use_dora": true})");
  CHECK(mentions(error_of<FormatError>([&] { load(path); }), {"use_dora"}));
  // kohya: alpha over the rank; shapes of trainers differ.
  write(path, {{flat + "lora_down.weight", {2, 12, 1, 1}},
               {flat + "lora_up.weight", {12, 2, 1, 1}},
               {flat + "alpha", {1}, 3},
               {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", {2, 12}},
               {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight", {12, 2}},
               {"lora_te1_text_model_encoder_layers_0_mlp_fc2.lora_down.weight", {1, 40}},
               {"lora_te1_text_model_encoder_layers_0_mlp_fc2.lora_up.weight", {24, 1}}});
  const auto lora = load(path);
  CHECK(lora.unet.factors(block + "attn1.to_q").scale == 1.5);
  CHECK(lora.unet.factors("down_blocks.0.attentions.0.proj_in").scale == 1);
  CHECK(lora.text.slots.front() == "text_model.encoder.layers.0.mlp.fc2");
}

TEST_CASE("What is no plain LoRA of this model is refused by tensor") {
  const std::vector<Entry> good{{flat + "lora_down.weight", {2, 12}}, {flat + "lora_up.weight", {12, 2}}};
  CHECK(error(good).empty());
  const auto with = [&](const std::string& name, const Shape& shape) {
    auto entries = good;
    entries.push_back({name, shape});
    return error(entries);
  };
  for (const std::string end : {"hada_w1_a", "lokr_w1", "dora_scale", "diff", "diff_b", "lora_mid.weight",
                                "oft_diag", "a1.weight", "b2.weight", "on_input", "w_norm", "b_norm"})
    CHECK_MESSAGE(mentions(with(flat + end, {2, 2}), {end, "not supported"}), end);
  const std::string q = "unet." + block + "attn1.to_q.";
  for (const auto& name :
       {q + "lora_magnitude_vector", q + "lora_B.bias", std::string("lora_te2_text_model_x.alpha"),
        std::string("text_encoder_2.x.lora_A.weight"), std::string("lora_controlnet_x.alpha")})
    CHECK_MESSAGE(mentions(with(name, {2}), {"not supported"}), name);
  CHECK(mentions(with("lora_unet_input_blocks_1_1_proj_in.alpha", {}), {"input_blocks", "SDXL"}));
  CHECK(mentions(with("lora_unet_down_blocks_7_x.alpha", {}), {"down_blocks_7_x", "another base"}));
  CHECK(mentions(with("unet.down_blocks.7.x.lora_A.weight", {2, 2}), {"down_blocks.7.x"}));
  CHECK(mentions(with("something.else", {2}), {"something.else", "no factor"}));
  CHECK(mentions(with(flat + "weight", {2}), {"no factor"}));
  CHECK(mentions(with(q + "lora_A.weight", {2, 12}), {"same factor"}));
  CHECK(mentions(error({good[0]}), {"down factor but no up"}));
  CHECK(mentions(error({good[1]}), {"up factor but no down"}));
  CHECK(mentions(error({{flat + "alpha", {}}}), {"alpha but no factors"}));
  CHECK(mentions(error({{flat + "lora_down.weight", {2, 13}}, good[1]}), {"[2, 13]", "[12, 12]"}));
  CHECK(mentions(error({{flat + "lora_down.weight", {2, 12, 3, 3}}, good[1]}), {"[2, 12, 3, 3]"}));
  CHECK(mentions(error({good[0], {flat + "lora_up.weight", {12, 3}}}), {"[12, 3]"}));
  CHECK(mentions(error({good[0], good[1], {flat + "alpha", {2}}}), {"alpha", "[2]"}));
  CHECK(mentions(error({good[0], {flat + "lora_up.weight", {12, 2}, 1e30f}, {flat + "alpha", {}, 1e30f}}),
                 {"alpha"}));
}

TEST_CASE(
    "A LoRA that is overwritten in place is refused when its factors are read, one renamed over is not") {
  const Folder folder;
  const auto path = folder / "x.safetensors";
  const std::vector<Entry> good{{"unet." + block + "attn1.to_q.lora_A.weight", {2, 12}},
                                {"unet." + block + "attn1.to_q.lora_B.weight", {12, 2}},
                                {"unet." + block + "attn1.to_k.lora_A.weight", {2, 12}, 0.25f},
                                {"unet." + block + "attn1.to_k.lora_B.weight", {12, 2}, 0.25f}};
  auto other = good;
  other[0].value = 0.75f;
  write(path, good);
  write(folder / "other.safetensors", other);
  const auto bytes = io_test::read_text(path);
  const auto lora = load(path);
  const auto before = lora.unet.factors(block + "attn1.to_q").A;
  io_test::write_text(path, io_test::read_text(folder / "other.safetensors"));
  CHECK(mentions(error_of<FormatError>([&] { lora.unet.factors(block + "attn1.to_q"); }),
                 {"x.safetensors", "attn1.to_q", "overwritten", "load it again"}));
  CHECK(lora.unet.factors(block + "attn1.to_k").A.front() == 0.25);
  io_test::write_text(path, bytes);
  std::filesystem::rename(folder / "other.safetensors", path);
  CHECK(lora.unet.factors(block + "attn1.to_q").A == before);
}

TEST_CASE("A path that is no LoRA is refused") {
  const Folder folder;
  CHECK_THROWS_AS(load(folder / "absent"), Error);
  CHECK(mentions(error_of<Error>([&] { load(folder.path); }), {"no LoRA"}));
  io_test::write_text(folder / "x.pt", "x");
  CHECK(mentions(error_of<FormatError>([&] { load(folder / "x.pt"); }), {"pickles"}));
  write(folder / "empty.safetensors", {});
  CHECK_THROWS_AS(load(folder / "empty.safetensors"), FormatError);
}

TEST_CASE("What is written for diffusers and for PEFT loads to the same outputs") {
  const Folder folder;
  const auto& table = pipeline().unet.layers().table;
  for (const std::string name : {"lora_peft", "lora_diffusers", "lora_diffusers_old", "lora_kohya"}) {
    const auto lora = load(sd1 / name);
    const auto expected = output(lora.unet);
    save_diffusers_lora(folder / name, lora, slot_catalogue(table),
                        slot_catalogue(pipeline().text.layers().table));
    const auto again = load(folder / name);
    CHECK(again.unet.slots == lora.unet.slots);
    CHECK(again.text.slots == lora.text.slots);
    const auto found = output(again.unet);
    for (std::size_t i = 0; i < found.size(); ++i)
      CHECK(found[i] == doctest::Approx(expected[i]).epsilon(1e-12));
    save_peft_lora(folder / (name + "_peft"), lora, slot_catalogue(table));
    const auto written = load(folder / (name + "_peft"));
    CHECK(written.text.slots == lora.text.slots);
    const auto peft = output(written.unet);
    for (std::size_t i = 0; i < peft.size(); ++i)
      CHECK(peft[i] == doctest::Approx(expected[i]).epsilon(1e-12));
  }
}

}  // namespace mole::lora_files
