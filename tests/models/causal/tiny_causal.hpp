#pragma once
// Decoder-only models small enough to try much on, with adapters.

#include <memory>
#include <string>
#include <vector>

#include <experts/experts.hpp>
#include <mole/models/causal/examples.hpp>
#include <mole/models/causal/generate.hpp>
#include <mole/models/llama/model.hpp>
#include <mole/models/opt/model.hpp>
#include <testing.hpp>

namespace mole::testing {

inline LlamaConfig tiny_llama_config() {
  LlamaConfig config;
  config.model_type = "llama";
  config.vocab_size = 17;
  config.hidden_size = 10;
  config.intermediate_size = 14;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 4;
  config.max_position_embeddings = 32;
  config.eos_token_ids = {16};
  config.initializer_range = 0.4;
  return config;
}

inline OptConfig tiny_opt_config() {
  OptConfig config;
  config.model_type = "opt";
  config.vocab_size = 17;
  config.hidden_size = 8;
  config.word_embed_proj_dim = 6;
  config.ffn_dim = 14;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 2;
  config.max_position_embeddings = 32;
  config.eos_token_ids = {16};
  config.initializer_range = 0.4;
  return config;
}

/// A model with random weights.
template <class Model, class Config>
std::unique_ptr<CausalModel<double, Device>> filled(const Config& config) {
  auto model = std::make_unique<Model>(config);
  Generator generator{7};
  model->initialize(generator);
  return model;
}

/// A Llama with everything its relatives add, one with a window, and an OPT.
inline std::vector<std::unique_ptr<CausalModel<double, Device>>> tiny_causal_models() {
  std::vector<std::unique_ptr<CausalModel<double, Device>>> models;
  auto config = tiny_llama_config();
  config.qkv_bias = config.qk_norm = config.tie_word_embeddings = true;
  models.push_back(filled<Llama<double, Device>>(config));
  config = tiny_llama_config();
  config.windows = {3, 0};
  models.push_back(filled<Llama<double, Device>>(config));
  models.push_back(filled<Opt<double, Device>>(tiny_opt_config()));
  return models;
}

/// Two adapters: one on every layer inside a block, one on queries and keys alone.
inline std::vector<LoraSet> causal_adapters(const CausalModel<double, Device>& model) {
  std::vector<LoraSet> sets;
  std::uint64_t seed = 40;
  for (const std::string name : {"all", "qk"}) {
    LoraSet set{name, name + "'s digest", {}, {}};
    std::map<std::string, LoraFactors> factors;
    const auto& table = model.layers().table;
    for (const auto& slot : table.slots) {
      const bool inside = !table.groups[slot.group].place.block.empty();
      const bool qk = slot.name.ends_with("q_proj") || slot.name.ends_with("k_proj");
      if (!inside || (name == "qk" && !qk)) continue;
      set.slots.push_back(slot.name);
      factors[slot.name] = random_factors(2, slot.shape[1], slot.shape[0], 0.5, ++seed);
    }
    set.factors = [factors](const std::string& slot) { return factors.at(slot); };
    sets.push_back(std::move(set));
  }
  return sets;
}

/// Random values in every gate of MoLE.
inline void scatter(CausalModel<double, Device>& model) {
  std::uint64_t stream = 0;
  for (const auto& placed : model.mixer().gates())
    placed.gate.weight.assign(Tensor<double, Device>::randn(placed.gate.weight.shape(), {99, stream++}, 3));
}

inline Tensor<Index, Device> ids_of(const std::vector<std::vector<Index>>& rows) {
  std::vector<Index> all;
  for (const auto& row : rows) all.insert(all.end(), row.begin(), row.end());
  return Tensor<Index, Device>::from(
      {static_cast<Index>(rows.size()), static_cast<Index>(rows.front().size())}, all);
}
inline Tensor<double, Device> mask_of(const std::vector<std::vector<double>>& rows) {
  std::vector<double> all;
  for (const auto& row : rows) all.insert(all.end(), row.begin(), row.end());
  return Tensor<double, Device>::from(
      {static_cast<Index>(rows.size()), static_cast<Index>(rows.front().size())}, all);
}

}  // namespace mole::testing
