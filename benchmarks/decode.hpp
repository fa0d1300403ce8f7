#pragma once
// decode/: one token of a Llama, greedily, with 8 experts of rank 16 on every linear layer or without any. The gates are
// those of the default, one a block: they were made while the prompt was read, and stay. nf4: the linear layers' frozen
// weights are packed as bitsandbytes does.

#include <map>

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
    config.max_position_embeddings = 2048;
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

/// A model, the prompt's keys and values, and the token that comes next.
template <class T, class B>
struct Decoding {
  std::shared_ptr<mole::Llama<T, B>> model;
  mole::CausalCache<T, B> prompt;
  mole::MolePass<T, B> pass;
  mole::Tensor<Index, B> token;
  /// Bytes of the frozen matrices that a token multiplies with, and of the experts' factors.
  double weights = 0;

  /// Logits of the token after it. The prompt's cache stays as it is: each step is the same one.
  mole::Tensor<T, B> step() {
    const mole::NoGrad off;
    auto cache = prompt;
    auto own = pass;
    return model->next_logits(token, {}, own, cache);
  }
};

/// The layer of a weight.
inline std::string slot_of(const std::string& weight) { return weight.substr(0, weight.rfind('.')); }

/// Random weights; those of one shape are alike in all blocks, but each has its own memory.
template <class T, class B>
Decoding<T, B> make_decoding(const LlamaSize& size, Index n_experts, bool nf4) {
  mole::BufferPool<B>::instance().release_cached();
  constexpr Index prompt_length = 64, r = 16;
  Decoding<T, B> d{std::make_shared<mole::Llama<T, B>>(size.config()), {}, {}, {}};
  std::map<std::string, mole::Tensor<T, B>> drawn;
  std::map<std::string, std::shared_ptr<const mole::PackedRows>> packed;
  d.model->each_parameter([&](const std::string& name, const mole::Shape& shape,
                              const mole::ParameterStart& start, mole::Tensor<T, B>& tensor) {
    if (nf4 && shape.rank() == 2 && d.model->layers().table.contains(slot_of(name))) {
      auto& rows = packed[mole::message(shape)];
      if (!rows) rows = random_rows(packed_kinds[0], shape);
      d.model->keep_packed(name, rows);
      d.weights += static_cast<double>(rows->bytes());
      return;
    }
    auto& one = drawn[mole::message(shape, start.value)];
    if (!one.defined())
      one = shape.rank() == 1 ? mole::Tensor<T, B>::ones(shape) : draw<T, B>(shape, shape[1]);
    tensor = one.clone();
    if (shape.rank() == 2 && name != "model.embed_tokens.weight") d.weights += bytes(tensor);
  });
  drawn.clear();
  std::map<std::string, mole::LoraFactors> factors;
  std::vector<mole::LoraSet> experts;
  const auto& table = d.model->layers().table;
  for (Index i = 0; i < n_experts; ++i) {
    mole::LoraSet set{mole::message("expert", i), "", {}, {}};
    for (const auto& slot : table.slots) set.slots.push_back(slot.name);
    set.factors = [&, i](const std::string& name) {
      const auto& shape = table.slots[table.find(name)].shape;
      auto& one = factors[mole::message(i, shape)];
      if (one.rank == 0) one = draw_lora(shape[0], shape[1], r);
      d.weights += static_cast<double>(r * (shape[0] + shape[1])) * sizeof(T);
      return one;
    };
    experts.push_back(std::move(set));
  }
  if (n_experts > 0) d.model->attach(experts, mole::GateOptions{});
  const mole::NoGrad off;
  std::vector<Index> ids;
  for (Index i = 0; i < prompt_length; ++i) ids.push_back(3 + i * 97 % 31000);
  d.model->next_logits(mole::Tensor<Index, B>::from({1, prompt_length}, ids), {}, d.pass, d.prompt);
  d.token = mole::Tensor<Index, B>::from({1, 1}, {1234});
  return d;
}

template <class T, class B>
void run_decode(benchmark::State& state, const LlamaSize& size, Index n_experts, bool nf4, bool graph) {
  auto& decoding = prepared(mole::message("decode", size.name, n_experts, nf4),
                            [&] { return make_decoding<T, B>(size, n_experts, nf4); });
  time_steps<B>(state, graph, [&] { benchmark::DoNotOptimize(decoding.step()); });
  state.counters["bytes"] = benchmark::Counter(decoding.weights, {}, benchmark::Counter::kIs1024);
  state.counters["bytes/s"] = benchmark::Counter(
      decoding.weights, benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1024);
  state.counters["held"] = benchmark::Counter(static_cast<double>(mole::buffer_stats<B>().in_use), {},
                                              benchmark::Counter::kIs1024);
}

template <class T, class B>
void add_decode(const LlamaSize& size) {
  for (const bool nf4 : {false, true})
    for (const Index n_experts : {0, 8})
      for (const bool graph : {false, true}) {
        if (graph && !mole::has_graphs<B>) continue;
        const auto name = std::string("decode/") + size.name + (n_experts ? "/mole" : "/bare") +
                          (nf4 ? "/nf4" : "") + (graph ? "/graph" : "");
        add(name, [&size, n_experts, nf4, graph](benchmark::State& state) {
          run_decode<T, B>(state, size, n_experts, nf4, graph);
        });
      }
}

}  // namespace bench
