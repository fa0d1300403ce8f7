// Models whose weights stay as their files have them.

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <experts/experts.hpp>
#include <mole/compose/linear.hpp>
#include <mole/io/lora_set.hpp>
#include <mole/models/causal/examples.hpp>
#include <mole/models/causal/generate.hpp>
#include <mole/models/causal/load.hpp>
#include <testing.hpp>

#include "io/folder.hpp"
#include "text/gguf_vocabulary.hpp"

using namespace mole;
using namespace io_test;
using mole::testing::Device;
using mole::testing::doubles;
using mole::testing::worst_error;

namespace packed_tests {

namespace {

std::string bitsandbytes_folder(const std::string& name) {
  return std::string(MOLE_TEST_DATA) + "/quant/llama_" + name;
}

/// Two texts with a padded token, twelve tokens each: more rows than dot products take.
template <class T>
CausalBatch<T, Device> two_texts() {
  std::vector<Index> ids, labels;
  std::vector<T> mask, prompt;
  for (Index i = 0; i < 24; ++i) {
    const bool real = i != 12;
    ids.push_back(5 + i * 7 % 37);
    mask.push_back(T(real ? 1 : 0));
    prompt.push_back(T(real && i % 12 < 6 ? 1 : 0));
    labels.push_back(real && i % 12 >= 6 ? ids.back() : -100);
  }
  const Shape shape{2, 12};
  return {Tensor<Index, Device>::from(shape, ids), Tensor<T, Device>::from(shape, mask),
          Tensor<T, Device>::from(shape, prompt), Tensor<Index, Device>::from(shape, labels)};
}

/// Loss and the gradients of all gates, with two experts attached.
template <class T>
std::vector<double> mole_step(CausalModel<T, Device>& model, const std::vector<LoraSet>& experts,
                              const GateOptions& options) {
  model.attach(experts, options);
  std::uint64_t stream = 0;
  for (const auto& placed : model.mixer().gates())
    placed.gate.weight.assign(Tensor<T, Device>::randn(placed.gate.weight.shape(), {3, stream++}));
  MolePass<T, Device> pass;
  const auto loss = model.loss(two_texts<T>(), pass);
  backward(loss);
  auto all = doubles(loss);
  for (const auto& placed : model.mixer().gates()) {
    const auto gradient = doubles(placed.gate.weight.grad());
    all.insert(all.end(), gradient.begin(), gradient.end());
  }
  return all;
}

template <class T>
void check_mole_on_packed(const std::filesystem::path& path, const std::vector<LoraSet>& experts) {
  for (const auto& options : {GateOptions{.pooling = Pooling::token}, GateOptions{.scope = Scope::layer}}) {
    const auto packed = load_causal<T, Device>(path, nullptr, {.keep_packed = true});
    const auto dense = load_causal<T, Device>(path);
    const auto found = mole_step(*packed, experts, options), expected = mole_step(*dense, experts, options);
    REQUIRE(found.size() > 1);
    const double apart = worst_error(found, expected);
    if (std::same_as<T, double>) {
      CHECK(apart < 1e-13);
    } else if (std::same_as<Device, Cpu>) {
      CHECK(apart < 1e-6);
    } else {
      // There packed weights have products of their own, whose sums have another order. The model makes more of such
      // roundings: it is 1e-6 to 1e-4 from double's numbers with either.
      const auto exact = mole_step(*load_causal<double, Device>(path), experts, options);
      CHECK(worst_error(found, exact) < 4 * worst_error(expected, exact) + 1e-6);
    }
  }
}

/// A Llama with random blocks of Q8_0, Q4_0 and F16 by turns: 64 wide, its queries and keys turned as llama.cpp does.
std::filesystem::path packed_llama(const Folder& folder) {
  using text_test::bytes_of;
  text_test::GgufVocabulary file;
  file.text("general.architecture", "llama");
  const auto number = [&](const std::string& key, std::uint32_t value) {
    file.number("llama." + key, value);
  };
  number("block_count", 2);
  number("context_length", 96);
  number("embedding_length", 64);
  number("feed_forward_length", 96);
  number("attention.head_count", 4);
  number("attention.head_count_kv", 2);
  number("vocab_size", 50);
  file.real("llama.attention.layer_norm_rms_epsilon", 1e-5F);
  std::vector<text_test::GgufFloats> tensors;
  std::uint64_t seed = 0;
  const auto matrix = [&](const std::string& name, std::uint64_t rows, std::uint64_t columns) {
    text_test::GgufFloats tensor{name, {columns, rows}, {}};
    const RandomStream stream{11, ++seed};
    const auto n = static_cast<Index>(rows * columns);
    const std::uint32_t types[] = {8, 2, 1};  // Q8_0, Q4_0, F16
    tensor.type = types[seed % 3];
    if (tensor.type == 1)
      for (Index i = 0; i < n; ++i) tensor.bytes += bytes_of(mole::half(0.1 * normal(stream, i)));
    else
      for (Index block = 0; block < n / 32; ++block) {
        tensor.bytes += bytes_of(mole::half(tensor.type == 8 ? 0.002 : 0.02));
        for (Index i = 0; i < (tensor.type == 8 ? 32 : 16); ++i)
          tensor.bytes += static_cast<char>(std::lround(60 * normal(stream, block * 32 + i)));
      }
    tensors.push_back(tensor);
  };
  const auto ones = [&](const std::string& name) { tensors.push_back({name, {64}, std::vector(64, 1.0F)}); };
  matrix("token_embd.weight", 50, 64);
  ones("output_norm.weight");
  for (const std::string block : {"blk.0.", "blk.1."}) {
    ones(block + "attn_norm.weight");
    ones(block + "ffn_norm.weight");
    matrix(block + "attn_q.weight", 64, 64);
    matrix(block + "attn_k.weight", 32, 64);
    matrix(block + "attn_v.weight", 32, 64);
    matrix(block + "attn_output.weight", 64, 64);
    matrix(block + "ffn_gate.weight", 96, 64);
    matrix(block + "ffn_up.weight", 96, 64);
    matrix(block + "ffn_down.weight", 64, 96);
  }
  file.write(folder / "llama.gguf", tensors);
  return folder / "llama.gguf";
}

/// A LoRA for every linear layer of a block.
LoraSet adapter_for(const CausalModel<float, Device>& model, const std::string& name, std::uint64_t seed) {
  LoraSet set{name, name + "'s digest", {}, {}};
  std::map<std::string, LoraFactors> factors;
  for (const auto& slot : model.layers().table.slots) {
    set.slots.push_back(slot.name);
    factors[slot.name] = testing::random_factors(2, slot.shape[1], slot.shape[0], 0.5, ++seed);
  }
  set.factors = [factors](const std::string& slot) { return factors.at(slot); };
  return set;
}

std::vector<LoraSet> adapters_for(const std::filesystem::path& path) {
  const auto model = load_causal<float, Device>(path);
  return {adapter_for(*model, "a", 10), adapter_for(*model, "b", 70)};
}

Index packed_slots(const CausalModel<float, Device>& model) {
  Index count = 0;
  for (const auto& slot : model.layers().table.slots) count += slot.stored.defined() ? 1 : 0;
  return count;
}

}  // namespace

TEST_CASE("MoLE over the packed weights of a GGUF file is MoLE over their numbers, gradients too") {
  const Folder folder;
  const auto path = packed_llama(folder);
  const auto experts = adapters_for(path);
  check_mole_on_packed<float>(path, experts);
  check_mole_on_packed<double>(path, experts);
}

TEST_CASE("A GGUF file that stays packed writes the same text") {
  const Folder folder;
  const auto path = packed_llama(folder);
  const auto packed = load_causal<float, Device>(path, nullptr, {.keep_packed = true});
  const auto dense = load_causal<float, Device>(path);
  CHECK(packed_slots(*packed) == static_cast<Index>(packed->layers().table.slots.size()));
  CHECK(packed_slots(*dense) == 0);
  CHECK(!packed->head().dense().defined());
  const auto prompts = pad_left<float, Device>({{5, 6, 7, 8}, {9, 10}}, 0);
  MolePass<float, Device> pass, own;
  CHECK(generate(*packed, prompts, pass, {.max_new_tokens = 12}).tokens ==
        generate(*dense, prompts, own, {.max_new_tokens = 12}).tokens);
}

TEST_CASE("Folders of transformers and bitsandbytes have its logits, packed and as numbers") {
  for (const std::string name : {"nf4_double", "fp4", "int8"}) {
    const auto folder = bitsandbytes_folder(name);
    const SafetensorsFile expected(folder + "/expected.safetensors");
    const auto batch = CausalBatch<float, Device>::prompts(TokenBatch<float, Device>::unpadded(
        Tensor<Index, Device>::from(expected.at("input_ids").shape, expected.read<Index>("input_ids"))));
    for (const bool keep : {false, true}) {
      CAPTURE(name);
      CAPTURE(keep);
      std::vector<std::string> warnings;
      const auto model = load_causal<float, Device>(folder, &warnings, {.keep_packed = keep});
      CHECK(warnings.empty());
      CHECK(packed_slots(*model) == (keep ? 14 : 0));
      MolePass<float, Device> pass;
      CHECK(worst_error(model->logits(batch, pass), expected.read<double>("logits")) < 1e-4);
    }
    const auto experts = adapters_for(folder);
    check_mole_on_packed<float>(folder, experts);
    check_mole_on_packed<double>(folder, experts);
  }
}

TEST_CASE("Merging into weights that stay packed, and training them, is refused by name") {
  const Folder folder;
  const auto path = packed_llama(folder);
  const auto model = load_causal<float, Device>(path, nullptr, {.keep_packed = true});
  CHECK(mentions(error_of<ArgumentError>([&] {
                   merge(model->layers().table, adapters_for(path), {1, 1});
                 }),
                 {"q_proj", "not dense"}));
  CHECK(mentions(error_of<ArgumentError>([&] { model->trainable_parameters(); }),
                 {"embed_tokens", "packed", "cannot train"}));
}

TEST_CASE("A LoRA trains on weights that stay packed as on their numbers") {
  const Folder folder;
  const auto path = packed_llama(folder);
  const auto gradients = [&](const LoadOptions& options) {
    const auto model = load_causal<double, Device>(path, nullptr, options);
    Generator generator{3};
    auto& table = model->layers().table;
    table.add_lora(2, 4, generator, table.names_in_blocks());
    for (const auto& slot : table.slots)
      slot.lora.up.assign(Tensor<double, Device>::randn(slot.lora.up.shape(), {8, slot.group}));
    MolePass<double, Device> pass;
    backward(model->loss(two_texts<double>(), pass));
    std::vector<double> all;
    for (const auto& tensor : table.lora_parameters())
      for (const double value : doubles(tensor.grad())) all.push_back(value);
    return all;
  };
  CHECK(worst_error(gradients({.keep_packed = true}), gradients({})) < 1e-12);
}

TEST_CASE("A quantised folder is refused by its method, and bitsandbytes' by the tensor that does not fit") {
  const Folder folder;
  std::filesystem::copy(bitsandbytes_folder("nf4_double"), folder.path,
                        std::filesystem::copy_options::recursive);
  for (const auto& entry : std::filesystem::directory_iterator(folder.path))
    std::filesystem::permissions(entry.path(), std::filesystem::perms::owner_all);
  const auto refusal = [&] { return error_of([&] { load_causal<float, Device>(folder.path); }); };
  CHECK(refusal() == "");
  auto weights = read_text(folder / "model.safetensors");
  const auto at = weights.find("\"shape\": [72, 40]");
  REQUIRE(at != weights.npos);
  write_text(folder / "model.safetensors", std::string(weights).replace(at, 17, "\"shape\": [40, 72]"));
  CHECK(mentions(refusal(), {"model.safetensors", "mlp", "[40, 72]", "[72, 40]"}));
  write_text(folder / "model.safetensors", weights);
  auto config = Json::parse(read_text(folder / "config.json"));
  config["quantization_config"]["quant_method"] = "awq";
  write_text(folder / "config.json", config.dump());
  CHECK(mentions(refusal(), {"config.json", "'awq'", "bitsandbytes"}));
}

}  // namespace packed_tests
