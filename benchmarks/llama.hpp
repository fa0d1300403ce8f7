#pragma once
// A Llama by its sizes, with random weights and experts.

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <mole/models/llama/model.hpp>

#include "bench.hpp"
#include "random_rows.hpp"

namespace bench {

/// A Llama by its sizes.
struct LlamaSize {
  const char* name;
  Index d, d_ff, layers, heads, key_heads;

  mole::LlamaConfig config() const {
    mole::LlamaConfig config;
    config.vocab_size = 32000;
    config.max_position_embeddings = Index{1} << 17;
    config.hidden_size = d;
    config.intermediate_size = d_ff;
    config.num_hidden_layers = layers;
    config.num_attention_heads = heads;
    config.num_key_value_heads = key_heads;
    config.head_dim = d / heads;
    return config;
  }
};

inline constexpr LlamaSize llama_sizes[] = {
    // name, d, d_ff, layers, heads, key_heads
    {"1b", 2048, 5632, 22, 32, 4},
    {"7b", 4096, 11008, 32, 32, 32},
};

/// A model with random weights; those of one shape are alike in all blocks, but each has its own memory. With gates for
/// so many experts of rank 16 on every linear layer, one gate a block, as is the default. Adds to `product_bytes` the
/// frozen matrices that a token multiplies with, and the experts' factors. nf4: the linear layers' weights stay packed, as
/// bitsandbytes packs them.
template <class T, class B>
std::shared_ptr<mole::Llama<T, B>> make_llama(const LlamaSize& size, Index n_experts, bool nf4,
                                              double& product_bytes) {
  constexpr Index r = 16;
  mole::BufferPool<B>::instance().release_cached();
  const auto model = std::make_shared<mole::Llama<T, B>>(size.config());
  std::map<std::string, mole::Tensor<T, B>> drawn;
  std::map<std::string, std::shared_ptr<const mole::PackedRows>> packed;
  model->each_parameter([&](const std::string& name, const mole::Shape& shape,
                            const mole::ParameterStart& start, mole::Tensor<T, B>& tensor) {
    const auto slot = name.substr(0, name.rfind('.'));
    if (nf4 && shape.rank() == 2 && model->layers().table.contains(slot)) {
      auto& rows = packed[mole::message(shape)];
      if (!rows) rows = random_rows(packed_kinds[0], shape);
      model->keep_packed(name, rows);
      product_bytes += static_cast<double>(rows->bytes());
      return;
    }
    auto& one = drawn[mole::message(shape, start.value)];
    if (!one.defined())
      one = shape.rank() == 1 ? mole::Tensor<T, B>::ones(shape) : draw<T, B>(shape, shape[1]);
    tensor = one.clone();
    if (shape.rank() == 2 && name != "model.embed_tokens.weight") product_bytes += bytes(tensor);
  });
  drawn.clear();
  std::map<std::string, mole::LoraFactors> factors;
  std::vector<mole::LoraSet> experts;
  const auto& table = model->layers().table;
  for (Index i = 0; i < n_experts; ++i) {
    mole::LoraSet set{mole::message("expert", i), "", {}, {}};
    for (const auto& slot : table.slots) set.slots.push_back(slot.name);
    set.factors = [&, i](const std::string& name) {
      const auto& shape = table.slots[table.find(name)].shape;
      auto& one = factors[mole::message(i, shape)];
      if (one.rank == 0) one = draw_lora(shape[0], shape[1], r);
      product_bytes += static_cast<double>(r * (shape[0] + shape[1])) * sizeof(T);
      return one;
    };
    experts.push_back(std::move(set));
  }
  if (n_experts > 0) model->attach(experts, mole::GateOptions{});
  return model;
}

}  // namespace bench
