#pragma once
// A T5 small enough to differentiate element by element, with adapters and a padded batch.

#include <functional>
#include <set>
#include <string>
#include <vector>

#include <experts/experts.hpp>
#include <mole/models/generate.hpp>
#include <mole/models/t5/model.hpp>
#include <testing.hpp>

namespace mole::testing {

inline T5Config tiny_config(Index blocks = 1) {
  T5Config config;
  config.vocab_size = 11;
  config.d_model = 6;
  config.d_kv = 3;
  config.d_ff = 7;
  config.num_heads = 2;
  config.num_layers = config.num_decoder_layers = blocks;
  config.relative_attention_num_buckets = 8;
  config.relative_attention_max_distance = 16;
  return config;
}

template <class T>
T5<T, Device> tiny_t5(Index blocks = 1) {
  T5<T, Device> model(tiny_config(blocks));
  Generator generator{42};
  model.initialize(generator);
  return model;
}

/// A random adapter for the slots that `adapts` names.
template <class T>
LoraSet adapter_for(
    const T5<T, Device>& model, const std::string& name, Index rank, std::uint64_t seed,
    const std::function<bool(const std::string&)>& adapts = [](const auto&) { return true; }) {
  LoraSet set{name, name + "'s digest", {}, {}};
  std::map<std::string, LoraFactors> factors;
  for (const auto& slot : model.layers().table.slots) {
    if (!adapts(slot.name)) continue;
    set.slots.push_back(slot.name);
    factors[slot.name] = random_factors(rank, slot.weight.size(1), slot.weight.size(0), 0.5, ++seed);
  }
  set.factors = [factors](const std::string& slot) { return factors.at(slot); };
  return set;
}

inline bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}
inline bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// One adapter on every slot, one on q and v, one on the feed-forward layers.
template <class T>
std::vector<LoraSet> tiny_adapters(const T5<T, Device>& model) {
  return {adapter_for(model, "all", 2, 100),
          adapter_for(model, "qv", 1, 200,
                      [](const auto& slot) { return ends_with(slot, ".q") || ends_with(slot, ".v"); }),
          adapter_for(model, "ff", 1, 300,
                      [](const auto& slot) { return has(slot, ".wi") || has(slot, ".wo"); })};
}

constexpr Index tiny_length = 4;

/// Two sequences of at most four tokens, the second padded on both sides.
template <class T>
T5Batch<T, Device> tiny_batch() {
  return {Tensor<Index, Device>::from({2, tiny_length}, {5, 3, 9, 1, 7, 1, 0, 0}),
          Tensor<T, Device>::from({2, tiny_length}, {1, 1, 1, 1, 1, 1, 0, 0}),
          Tensor<Index, Device>::from({2, 3}, {4, 8, 1, 2, 1, -100})};
}

/// Random values in every gate; `size` how far from uniform.
template <class T>
void scatter_gates(T5<T, Device>& model, T size = T(2)) {
  std::uint64_t stream = 0;
  for (const auto& placed : model.mixer().gates())
    placed.gate.weight.assign(
        scale(Tensor<T, Device>::randn(placed.gate.weight.shape(), {99, stream++}), size));
}

inline std::vector<GateOptions> all_policies() {
  std::vector<GateOptions> list;
  for (const GateInput input : {GateInput::experts, GateInput::hidden})
    for (const Scope scope : {Scope::matrix, Scope::layer, Scope::block, Scope::network})
      for (const Pooling pooling : {Pooling::flatten, Pooling::mean, Pooling::token})
        list.push_back({.scope = scope, .input = input, .pooling = pooling, .length = tiny_length});
  return list;
}

inline std::string name_of(const GateOptions& options) {
  return std::string(to_string(options.scope)) + " " + to_string(options.input) + " " +
         to_string(options.pooling);
}

/// Logits [S, Lt, V] for decoder ids after an encoder pass over the tiny batch; the pass is left in *pass.
template <class T>
Tensor<T, Device> tiny_logits(const T5<T, Device>& model, const std::vector<Index>& decoder_ids,
                              MolePass<T, Device>* kept = nullptr) {
  const NoGrad off;
  const auto batch = tiny_batch<T>();
  MolePass<T, Device> pass;
  const auto memory = model.encode(batch.input(), pass);
  const Index tokens = static_cast<Index>(decoder_ids.size()) / 2;
  const auto logits = model.decode(Tensor<Index, Device>::from({2, tokens}, decoder_ids), memory, pass);
  if (kept) *kept = std::move(pass);
  return logits;
}

}  // namespace mole::testing
