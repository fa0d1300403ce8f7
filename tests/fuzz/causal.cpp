// Folders of decoder-only models, with weights of bitsandbytes too, and weights in several files that an index names.

#include <cstddef>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <mole/backends/cpu.hpp>
#include <mole/io/checkpoint.hpp>
#include <mole/models/causal/load.hpp>

#include "harness.hpp"

namespace mole_fuzz {

namespace {

using mole::Dtype;
using mole::Index;
using mole::Shape;
using Model = mole::CausalModel<float, mole::Cpu>;
using Add = std::function<void(const std::vector<std::string>&)>;

void run(const Model& model) {
  const mole::NoGrad off;
  mole::MolePass<float, mole::Cpu> pass;
  const Index V = model.config().vocab_size;
  const auto ids = mole::Tensor<Index, mole::Cpu>::from({1, 3}, {0, V - 1, V / 2});
  accepts_or<mole::ArgumentError>([&] {  // a text may be longer than the model's
    require(model.logits({ids, {}, {}, {}}, pass).shape() == Shape({1, 3, V}), "logits of another shape");
  });
}

std::vector<std::vector<float>> weights(Model& model) {
  std::vector<std::vector<float>> list;
  model.visit([&](const std::string&, const Shape&, mole::Tensor<float, mole::Cpu>& tensor) {
    list.push_back(tensor.to_host());
  });
  return list;
}

void test_causal(const std::vector<std::string>& parts) {
  const auto from = folder() / "causal", to = folder() / "causal-again";
  write_model(from, parts);
  accepts([&] {
    std::vector<std::string> warnings;
    const auto model = mole::load_causal<float, mole::Cpu>(from, &warnings);
    for (const auto& warning : warnings) check_message(warning);
    const auto& config = model->config();
    for (const Index token : {config.bos_token_id, config.pad_token_id})
      require(token >= -1 && token < config.vocab_size, "a special token beyond the vocabulary");
    run(*model);
    run(*mole::load_causal<float, mole::Cpu>(from, nullptr, {.keep_packed = true}));
    auto json = mole::read_json(from / "config.json");
    json.erase("quantization_config");
    accepts([&] {
      mole::save_parameters(to, "model", *model, json, Dtype::F32);
      const auto copy = mole::load_causal<float, mole::Cpu>(to);
      // NaN is unlike itself.
      require(!warnings.empty() || weights(*copy) == weights(*model), "other weights after a round trip");
    });
  });
}

/// What config.json needs of a Llama or one of its relatives; d = 8.
mole::Json llama_json(const std::string& type) {
  return {{"model_type", type},       {"vocab_size", 5},        {"hidden_size", 8},
          {"intermediate_size", 6},   {"num_hidden_layers", 1}, {"num_attention_heads", 2},
          {"num_key_value_heads", 1}, {"head_dim", 4},          {"max_position_embeddings", 16},
          {"rms_norm_eps", 1e-6},     {"rope_theta", 10000.0},  {"tie_word_embeddings", false},
          {"hidden_act", "silu"},     {"bos_token_id", 1},      {"eos_token_id", {2, 3}}};
}

mole::Json opt_json() {
  return {{"model_type", "opt"},
          {"vocab_size", 5},
          {"hidden_size", 8},
          {"ffn_dim", 6},
          {"num_hidden_layers", 1},
          {"num_attention_heads", 2},
          {"word_embed_proj_dim", 4},
          {"max_position_embeddings", 16},
          {"do_layer_norm_before", true},
          {"activation_function", "relu"}};
}

/// The model that a configuration asks for, with small weights.
std::unique_ptr<Model> filled(const mole::Json& json, const std::filesystem::path& path) {
  std::filesystem::create_directories(path);
  mole::write_json(path / "config.json", json);
  std::unique_ptr<Model> model;
  if (json.at("model_type") == "opt")
    model = std::make_unique<mole::Opt<float, mole::Cpu>>(mole::read_opt_config(path / "config.json"));
  else
    model = std::make_unique<mole::Llama<float, mole::Cpu>>(mole::read_llama_config(path / "config.json"));
  mole::Generator generator{42};
  model->initialize(generator);
  return model;
}

/// The matrices of a layer as bitsandbytes stores them, of 4 or of 8 bits.
void add_quantised(mole::SafetensorsWriter& writer, Model& model, int bits) {
  model.visit([&](const std::string& name, const Shape& shape, mole::Tensor<float, mole::Cpu>& tensor) {
    if (shape.rank() != 2 || !name.starts_with("model.layers."))
      return writer.add(name, Dtype::F16, shape, tensor.to_host());
    if (bits == 8) {
      writer.add(name, Dtype::U8, shape, std::vector<double>(static_cast<std::size_t>(shape.size()), 3));
      const std::string stem = name.substr(0, name.size() - std::string("weight").size());
      return writer.add(stem + "SCB", Dtype::F32, Shape{shape[0]},
                        std::vector<double>(static_cast<std::size_t>(shape[0]), 0.5));
    }
    const Index blocks = (shape.size() + 63) / 64;
    const auto list = [](Index n, double value) {
      return std::vector<double>(static_cast<std::size_t>(n), value);
    };
    writer.add(name, Dtype::U8, Shape{(shape.size() + 1) / 2, 1}, list((shape.size() + 1) / 2, 0x5a));
    writer.add(name + ".absmax", Dtype::F32, Shape{blocks}, list(blocks, 1.5));
    writer.add(name + ".quant_map", Dtype::F32, Shape{16}, list(16, 0.25));
    const std::string state = mole::Json{
        {"quant_type", "nf4"},
        {"blocksize", 64},
        {"dtype", "float32"},
        {"shape",
         {shape[0], shape[1]}}}.dump();
    writer.add(name + ".quant_state.bitsandbytes__nf4", Dtype::U8, Shape{static_cast<Index>(state.size())},
               std::vector<std::uint8_t>(state.begin(), state.end()));
  });
}

void seed_causal(const Add& add) {
  const auto path = folder() / "seed-causal";
  const auto both = [&](const mole::Json& json) {
    const auto model = filled(json, path);
    mole::save_parameters(path, "model", *model, json, Dtype::F16);
    add({json.dump(), R"({"eos_token_id":[1,2],"pad_token_id":0,"bos_token_id":1})",
         read_bytes(path / "model.safetensors")});
  };
  for (const char* type : {"llama", "mistral", "qwen2", "qwen3", "gemma"}) {
    auto json = llama_json(type);
    if (std::string(type) == "llama")
      json["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", 8.0},
                              {"low_freq_factor", 1.0},
                              {"high_freq_factor", 4.0},
                              {"original_max_position_embeddings", 8}};
    if (std::string(type) == "mistral") json["sliding_window"] = 2;
    both(json);
  }
  both(opt_json());
  auto json = llama_json("llama");
  const auto model = filled(json, path);
  json["quantization_config"] = {{"quant_method", "bitsandbytes"}};
  for (const int bits : {4, 8}) {
    mole::SafetensorsWriter writer;
    add_quantised(writer, *model, bits);
    writer.write(path / "model.safetensors");
    auto bytes = read_bytes(path / "model.safetensors");
    // The writer has no I8, which is as wide.
    for (auto at = bytes.find("\"U8\""); bits == 8 && at != bytes.npos; at = bytes.find("\"U8\"", at))
      bytes.replace(at, 4, "\"I8\"");
    add({json.dump(), "", bytes});
  }
}

/// An index and two files.
void test_shards(const std::vector<std::string>& parts) {
  const auto path = folder() / "shards";
  write_bytes(path / "model.safetensors.index.json", parts[0]);
  write_bytes(path / "model-00001-of-00002.safetensors", parts[1]);
  write_bytes(path / "model-00002-of-00002.safetensors", parts[2]);
  accepts([&] {
    const mole::Checkpoint checkpoint(path);
    for (const auto& name : checkpoint.names()) {
      require(checkpoint.contains(name) && checkpoint.file_of(name).contains(name),
              "a tensor that is not there");
      accepts([&] {
        require(static_cast<Index>(checkpoint.read<double>(name).size()) == checkpoint.at(name).shape.size(),
                "another number of values");
      });
      accepts([&] { checkpoint.is_empty(name); });
    }
  });
}

void seed_shards(const Add& add) {
  const auto path = folder() / "seed.safetensors";
  std::vector<std::string> parts{
      R"({"metadata":{"total_size":72},"weight_map":{"a":"model-00001-of-00002.safetensors",)"
      R"("b":"model-00001-of-00002.safetensors","c":"model-00002-of-00002.safetensors"}})"};
  for (const std::vector<std::string>& names : {std::vector<std::string>{"a", "b"}, {"c"}}) {
    mole::SafetensorsWriter writer;
    writer.metadata("format", "pt");
    for (const auto& name : names) writer.add(name, Dtype::F32, Shape{2, 3}, std::vector<double>(6, 0.5));
    writer.write(path);
    parts.push_back(read_bytes(path));
  }
  add(parts);
}

}  // namespace

std::vector<Target> causal_targets() {
  return {{"causal", {Part::json, Part::json, Part::safetensors}, test_causal, seed_causal},
          {"shards", {Part::json, Part::safetensors, Part::safetensors}, test_shards, seed_shards}};
}

}  // namespace mole_fuzz
