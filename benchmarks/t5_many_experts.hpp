#pragma once
// t5_many_experts/: a T5 of width 128 with 128 experts of rank 8 on every linear layer, a mean-pooled gate a
// block, on 48 sequences of 48 tokens in and 40 out: what so many experts cost over the bare model, and how
// much of that top-k saves.

#include "t5_gate_step.hpp"

namespace bench {

/// The model, its batch and its experts.
struct ManyExperts {
  static constexpr Index S = 48, tokens_in = 48, tokens_out = 40, n_experts = 128, r = 8;

  static mole::T5Config config() {
    mole::T5Config config;
    config.vocab_size = 260;
    config.d_model = 128;
    config.d_kv = 32;
    config.d_ff = 384;
    config.num_heads = 4;
    config.num_layers = config.num_decoder_layers = 3;
    return config;
  }
};

/// Useful flops of a step: forward, and backward to the inputs of every layer.
struct StepFlops {
  double base = 0;     ///< linear layers, the products of attention, the head
  double experts = 0;  ///< of all n_experts

  double phi() const { return (base + experts) / base; }
};

template <class T, class B>
StepFlops many_experts_flops(const mole::T5<T, B>& model) {
  using M = ManyExperts;
  const auto& table = model.layers().table;
  const auto& config = model.config();
  const auto count = [](Index product) { return 2 * static_cast<double>(product); };
  StepFlops flops;
  for (const auto& group : table.groups)
    for (const std::size_t slot : group.slots) {
      const Index tokens =
          M::S * (group.place.stream == mole::T5<T, B>::decoder_stream ? M::tokens_out : M::tokens_in);
      const Index d_out = table.slots[slot].weight.size(0), d_in = table.slots[slot].weight.size(1);
      flops.base += 2 * count(tokens * d_in * d_out);
      flops.experts += 2 * count(tokens * M::n_experts * M::r * (d_in + d_out));
    }
  // Two products forward and four back for each pair of a query and a key.
  const Index pairs = config.num_layers * M::tokens_in * M::tokens_in +
                      config.num_decoder_layers * M::tokens_out * (M::tokens_out + M::tokens_in);
  flops.base += 6 * count(M::S * pairs * config.inner());
  flops.base += 2 * count(M::S * M::tokens_out * config.d_model * config.vocab_size);
  return flops;
}

/// A training of the model once `attach` has attached experts to it, or left it bare.
template <class T, class B, class Attach>
GateTraining<T, B> make_many_experts(Attach attach) {
  using M = ManyExperts;
  mole::BufferPool<B>::instance().release_cached();
  mole::T5<T, B> model{M::config()};
  model.initialize(generator);
  // The embedded tokens train, so that every layer sends a gradient to its input, with experts or without.
  std::vector<mole::Tensor<T, B>> parameters;
  model.visit([&](const std::string& name, const mole::Shape&, mole::Tensor<T, B>& tensor) {
    if (name == "shared.weight") parameters.push_back(tensor.set_requires_grad());
  });
  attach(model);
  if (model.layers().mixer) {
    for (const auto& parameter : model.mixer().parameters()) {
      if (parameter.rank() == 2) parameter.assign(draw<T, B>(parameter.shape()));
      parameters.push_back(parameter);
    }
  }
  const Index kinds = M::config().vocab_size - 2;
  const mole::T5Batch<T, B> batch{random_ids<B>(M::S, M::tokens_in, kinds),
                                  mole::Tensor<T, B>::ones({M::S, M::tokens_in}),
                                  random_ids<B>(M::S, M::tokens_out, kinds)};
  return {std::move(model), batch, mole::AdamW<T, B>(parameters)};
}

template <class T, class B>
void run_many_experts(benchmark::State& state, const std::string& name, Index top_k, bool graph) {
  // All experts mixed (top_k = 0), top_k of them, or none at all (top_k < 0).
  auto& training = prepared(name, [&] {
    return make_many_experts<T, B>([&](mole::T5<T, B>& model) {
      if (top_k < 0) return;
      model.attach(random_experts(model, ManyExperts::n_experts, ManyExperts::r),
                   mole::GateOptions{.top_k = top_k});
    });
  });
  time_training(state, training, graph);
  const auto flops = many_experts_flops(training.model);
  state.counters["phi"] = flops.phi();
  set_flops(state, top_k == 0 ? flops.base + flops.experts
                              : flops.base + flops.experts * std::max(0.0, static_cast<double>(top_k)) /
                                                 static_cast<double>(ManyExperts::n_experts));
}

/// Adds base, dense and some top<k>.
template <class T, class B>
void add_many_experts() {
  for (const Index top_k : {-1, 0, 2, 8, 32}) {
    const std::string name = std::string("t5_many_experts/") + (top_k < 0    ? "base"
                                                                : top_k == 0 ? "dense"
                                                                             : "top" + std::to_string(top_k));
    for (const bool graph : {false, true}) {
      if (graph && !mole::has_graphs<B>) continue;
      add(name + (graph ? "/graph" : ""), [name, top_k, graph](benchmark::State& state) {
        run_many_experts<T, B>(state, name, top_k, graph);
      });
    }
  }
}

}  // namespace bench
