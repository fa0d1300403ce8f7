// CLIP folders: names with and without text_model., configurations old and new, what is refused.

#include <filesystem>
#include <string>

#include <doctest/doctest.h>
#include <io/folder.hpp>
#include <mole/backends/cpu.hpp>
#include <mole/compose/linear.hpp>
#include <mole/models/clip/checkpoint.hpp>

namespace mole::clip_folders {

using io_test::error_of;
using io_test::Folder;
using io_test::mentions;
using io_test::write_text;

namespace {

const std::filesystem::path goldens = io_test::golden("vl");

}  // namespace

TEST_CASE("A saved CLIP loads to the same weights and configuration") {
  const Folder folder;
  auto model = load_clip<float, Cpu>(goldens / "clip/base");
  save_clip(folder.path, model, Dtype::F32);
  auto again = load_clip<float, Cpu>(folder.path);
  CHECK(clip_config_json(again.config()) == clip_config_json(model.config()));
  const auto ids = Tensor<Index, Cpu>::from({2, 3}, {1, 5, 63, 7, 63, 2});
  MolePass<float, Cpu> one, two;
  CHECK(model.text.features(ids, one).to_host() == again.text.features(ids, two).to_host());
}

TEST_CASE("The two files of a saved CLIP belong together, and foreign ones need no sign of it") {
  const auto moved = [](const std::filesystem::path& from, const std::filesystem::path& to) {
    std::filesystem::copy_file(from, to, std::filesystem::copy_options::overwrite_existing);
  };
  const auto check = [&](auto base, auto load, auto save, const Json& change) {
    const Folder folder;
    auto model = load(base);  // of transformers, which names no digest
    save(folder / "a", model);
    auto json = read_json(folder / "a/config.json");
    json.merge_patch(change);
    std::filesystem::create_directories(folder / "b");
    write_json(folder / "b/config.json", json);
    moved(base / "model.safetensors", folder / "b/model.safetensors");
    auto other = load(folder / "b");
    save(folder / "b", other);
    load(folder / "b");
    moved(folder / "b/config.json", folder / "a/config.json");
    CHECK(mentions(error_of<FormatError>([&] { load(folder / "a"); }),
                   {"model.safetensors", "config.json", "Save both again"}));
    save(folder / "a", model);
    json = read_json(folder / "a/config.json");
    json["transformers_version"] = "5.24.0";
    json["bos_token_id"] = 3;
    write_json(folder / "a/config.json", json);
    load(folder / "a");
  };
  const auto load_both = [](const auto& path) { return load_clip<float, Cpu>(path); };
  const auto save_both = [](const auto& path, auto& model) { save_clip(path, model, Dtype::F32); };
  check(goldens / "clip/base", load_both, save_both, {{"text_config", {{"hidden_act", "relu"}}}});
  check(goldens / "clip/base", load_both, save_both, {{"vision_config", {{"layer_norm_eps", 1e-3}}}});
  check(
      goldens / "sd1/base/text_encoder", [](const auto& path) { return load_clip_text<float, Cpu>(path); },
      [](const auto& path, auto& model) { save_clip_text(path, model, Dtype::F32); },
      {{"hidden_act", "relu"}});
}

TEST_CASE("A text tower loads with and without text_model. and pools where its configuration says") {
  for (const std::string name : {"sd1", "sd2"}) {
    const auto model = load_clip_text<float, Cpu>(goldens / name / "base/text_encoder");
    // The largest id is at 1; the first 60, sd2's eos_token_id, at 3.
    const auto ids = Tensor<Index, Cpu>::from({1, 5}, {0, 63, 5, 60, 60});
    MolePass<float, Cpu> pass;
    const auto states = model.states(ids, pass);
    const auto at = slice(states, 1, name == "sd1" ? 1 : 3, name == "sd1" ? 2 : 4);
    CHECK(model.pooled(states, ids).to_host() == at.to_host());
    CHECK_THROWS_AS(model.features(ids, pass), ArgumentError);
    CHECK_THROWS_AS(model.states(Tensor<Index, Cpu>::from({1, 13}, std::vector<Index>(13)), pass),
                    ShapeError);
  }
}

TEST_CASE("The keys of text_config_dict win over those of text_config") {
  const Folder folder;
  const auto path = folder.path / "config.json";
  write_text(path, R"({"model_type": "clip", "text_config": {"hidden_size": 64, "num_hidden_layers": 3},
                       "text_config_dict": {"hidden_size": 32}, "vision_config": {}})");
  const auto config = read_clip_config(path);
  CHECK(config.text.hidden == 32);
  CHECK(config.text.layers == 3);
  CHECK(config.text.vocabulary == 49408);
  CHECK(config.vision.hidden == 768);
  CHECK(config.vision.patch_size == 32);
  CHECK(config.projection == 512);
}

TEST_CASE("A CLIP configuration with an impossible value is refused by field") {
  const Folder folder;
  const auto path = folder.path / "config.json";
  const auto error = [&](const std::string& text) {
    write_text(path, text);
    return error_of<FormatError>([&] { read_clip_text_config(path); });
  };
  CHECK(mentions(error(R"({"model_type": "bert"})"), {"model_type", "bert"}));
  CHECK(mentions(error(R"({"hidden_size": 30, "num_attention_heads": 4})"), {"hidden_size", "30", "4"}));
  CHECK(mentions(error(R"({"hidden_act": "tanhshrink"})"), {"hidden_act", "tanhshrink"}));
  CHECK(mentions(error(R"({"num_hidden_layers": -1})"), {"num_hidden_layers"}));
  CHECK(mentions(error(R"({"layer_norm_eps": 2})"), {"layer_norm_eps"}));
}

TEST_CASE("An image smaller than a patch is refused, and so is one smaller than the usual patch") {
  const Folder folder;
  const auto path = folder.path / "config.json";
  for (const std::string vision : {R"({"image_size": 4, "patch_size": 5})", R"({"image_size": 4})"}) {
    write_text(path, R"({"model_type": "clip", "text_config": {}, "vision_config": )" + vision + "}");
    CHECK(mentions(error_of<FormatError>([&] { read_clip_config(path); }), {"patch_size", "4"}));
  }
}

TEST_CASE("A text tower refuses a file that lacks a tensor, has one too many or one of another shape") {
  const Folder folder;
  std::filesystem::copy(goldens / "sd2/base/text_encoder/config.json", folder.path / "config.json");
  const SafetensorsFile file(goldens / "sd2/base/text_encoder/model.safetensors");
  const auto error = [&](const std::string& without, const std::string& extra, const Shape& shape) {
    SafetensorsWriter writer;
    for (const auto& name : file.names())
      if (name != without) writer.add(name, Dtype::F32, file.at(name).shape, file.read<float>(name));
    if (!extra.empty())
      writer.add(extra, Dtype::F32, shape, std::vector<float>(static_cast<std::size_t>(shape.size())));
    writer.write(folder.path / "model.safetensors");
    return error_of<FormatError>([&] { load_clip_text<float, Cpu>(folder.path); });
  };
  const std::string norm = "final_layer_norm.bias";
  CHECK(mentions(error(norm, "", {}), {"final_layer_norm.bias", "missing"}));
  CHECK(mentions(error(norm, norm, {7}), {"final_layer_norm.bias", "[7]", "[20]"}));
  CHECK(mentions(error("", "visual.proj", {2}), {"visual.proj", "no place"}));
  // Old files list the positions.
  CHECK(error("", "text_model.embeddings.position_ids", {1, 12}).empty());
}

TEST_CASE("Image preparation reads sizes as numbers and as objects") {
  const Folder folder;
  const auto path = folder.path / "preprocessor_config.json";
  write_text(path, R"({"size": {"shortest_edge": 40}, "crop_size": {"height": 30, "width": 20},
                       "image_std": [1, 2, 4], "resample": 3})");
  const auto options = read_clip_image_options(path);
  CHECK(options.resize == 40);
  CHECK(options.crop_height == 30);
  CHECK(options.crop_width == 20);
  CHECK(options.deviation[2] == 4);
  CHECK(options.mean[0] == 0.48145466);
  write_text(path, R"({"size": 16, "crop_size": 12})");
  CHECK(read_clip_image_options(path).resize == 16);
  CHECK(read_clip_image_options(path).crop_width == 12);
  write_text(path, R"({"resample": 2})");
  CHECK_THROWS_AS(read_clip_image_options(path), FormatError);
  CHECK_THROWS_AS((clip_process<float, Cpu>({1, 2, 3}, 2, 2)), ShapeError);
}

TEST_CASE("Experts in CLIP's text tower start at their mean, block by block") {
  auto model = load_clip_text<double, Cpu>(goldens / "sd1/base/text_encoder");
  std::vector<LoraSet> sets;
  for (int i = 0; i < 2; ++i) {
    const std::string slot = "text_model.encoder.layers." + std::to_string(i) + ".self_attn.q_proj";
    LoraFactors factors{2, 24, 24, 0.5, std::vector<double>(48, 0.1 + i), std::vector<double>(48, 0.2)};
    sets.push_back({std::to_string(i), "", {slot}, [factors](const std::string&) { return factors; }});
  }
  const auto ids = Tensor<Index, Cpu>::from({1, 4}, {3, 9, 27, 1});
  model.attach(sets, GateOptions{});
  CHECK(model.mixer().gates().size() == 2);
  CHECK(model.mixer().gates()[1].name == "text_model.encoder.layers.1");
  MolePass<double, Cpu> mixed, merged;
  const auto found = model.states(ids, mixed).to_host();
  // Each gate holds one expert, which then has all of its weight.
  model.detach();
  merge(model.layers().table, sets, {1.0, 1.0});
  const auto expected = model.states(ids, merged).to_host();
  for (std::size_t i = 0; i < found.size(); ++i)
    CHECK(found[i] == doctest::Approx(expected[i]).epsilon(1e-12));
}

}  // namespace mole::clip_folders
