#pragma once
// t5_gate_step/: a FLAN-T5 with 8 experts of rank 16 on every linear layer and a token gate each, on 12
// sequences of 64 tokens in and 32 out: forward, both losses (eq. 16), backward to the gates, and their
// update.

#include "bench.hpp"

namespace bench {

/// A FLAN-T5 by its sizes.
struct T5Size {
  const char* name;
  Index d_model, d_kv, d_ff, heads, layers;
  bool large;  ///< a CPU needs seconds for one step

  mole::T5Config config() const {
    mole::T5Config config;
    config.d_model = d_model;
    config.d_kv = d_kv;
    config.d_ff = d_ff;
    config.num_heads = heads;
    config.num_layers = config.num_decoder_layers = layers;
    return config;
  }
};

inline constexpr T5Size t5_sizes[] = {
    // name, d_model, d_kv, d_ff, heads, layers, large
    {"small", 512, 64, 1024, 6, 8, false},
    {"base", 768, 64, 2048, 12, 12, true},
};

/// A model with its gates, if it has any, a batch, and what trains.
template <class T, class B>
struct GateTraining {
  mole::T5<T, B> model;
  mole::T5Batch<T, B> batch;
  mole::AdamW<T, B> optimizer;
  double rate = 1e-4;

  /// What a graph cannot hold of a step.
  void prepare() { optimizer.prepare(rate); }

  /// Leaves no output behind but the parameters and their gradients, whose bytes it returns. A bare model has
  /// no balance loss.
  double step() {
    mole::MolePass<T, B> pass;
    const auto domain = model.loss(batch, pass);
    const auto loss = model.layers().mixer ? mole::total_loss(domain, model.balance(pass), 0.5) : domain;
    optimizer.zero_grad();
    mole::backward(loss);
    optimizer.apply();
    double outputs = 0;
    for (const auto& parameter : optimizer.parameters()) outputs += bytes(parameter.grad());
    return outputs;
  }
};

/// Experts of rank r on every linear layer of the model, which they refer to.
template <class T, class B>
std::vector<mole::LoraSet> random_experts(const mole::T5<T, B>& model, Index n_experts, Index r) {
  std::vector<mole::LoraSet> sets;
  for (Index i = 0; i < n_experts; ++i) {
    mole::LoraSet set{mole::message("expert", i), "", {}, {}};
    for (const auto& slot : model.layers().table.slots) set.slots.push_back(slot.name);
    set.factors = [&model, r](const std::string& name) {
      const auto& table = model.layers().table;
      const auto& W = table.slots[table.find(name)].weight;
      return draw_lora(W.size(0), W.size(1), r);
    };
    sets.push_back(std::move(set));
  }
  return sets;
}

/// Random tokens [S, length] from 2 on, of `kinds` kinds.
template <class B>
mole::Tensor<Index, B> random_ids(Index S, Index length, Index kinds) {
  const auto stream = generator.next();
  std::vector<Index> values(static_cast<std::size_t>(S * length));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] =
        2 + static_cast<Index>(mole::uniform(stream, static_cast<Index>(i)) * static_cast<double>(kinds));
  return mole::Tensor<Index, B>::from({S, length}, values);
}

template <class T, class B>
GateTraining<T, B> make_gate_training(const T5Size& size) {
  mole::BufferPool<B>::instance().release_cached();
  constexpr Index S = 12, tokens_in = 64, tokens_out = 32, n_experts = 8, r = 16;
  mole::T5<T, B> model{size.config()};
  model.initialize(generator);
  const auto sets = random_experts(model, n_experts, r);
  model.attach(sets, {.scope = mole::Scope::matrix, .pooling = mole::Pooling::token});

  const mole::T5Batch<T, B> batch{random_ids<B>(S, tokens_in, 32000),
                                  mole::Tensor<T, B>::ones({S, tokens_in}),
                                  random_ids<B>(S, tokens_out, 32000)};
  mole::AdamW<T, B> optimizer(model.mixer().parameters());
  return {std::move(model), batch, std::move(optimizer)};
}

/// Times the steps of a training and counts the memory of one.
template <class T, class B>
void time_training(benchmark::State& state, GateTraining<T, B>& training, bool graph) {
  training.optimizer.zero_grad();
  training.prepare();
  const double peak = peak_bytes<B>([&] { return training.step(); });
  time_steps<B>(
      state, graph, [&] { benchmark::DoNotOptimize(training.step()); }, [&] { training.prepare(); });
  // A graph's gradients are in its own memory.
  training.optimizer.zero_grad();
  state.counters["peak_bytes"] = benchmark::Counter(peak, {}, benchmark::Counter::kIs1024);
}

template <class T, class B>
void run_gate_step(benchmark::State& state, const T5Size& size, bool graph) {
  time_training(
      state, prepared(std::string("t5") + size.name, [&] { return make_gate_training<T, B>(size); }), graph);
}

template <class T, class B>
void add_gate_step(const T5Size& size) {
  for (const bool graph : {false, true}) {
    if (graph && !mole::has_graphs<B>) continue;
    add(std::string("t5_gate_step/") + size.name + (graph ? "/graph" : ""),
        [&size, graph](benchmark::State& state) { run_gate_step<T, B>(state, size, graph); });
  }
}

}  // namespace bench
