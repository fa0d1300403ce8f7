#pragma once
// long_sequence/: a training step of a Llama's gates, 8 experts of rank 16 and one gate a block, on one long sequence:
// with the whole tape, with blocks that are run again, and with their inputs on the host meanwhile.

#include <algorithm>
#include <string>
#include <vector>

#include <mole/models/causal/batch.hpp>

#include "llama.hpp"

namespace bench {

/// A model in training on one sequence of L tokens, the first quarter of them its prompt.
template <class T, class B>
struct LongTraining {
  std::shared_ptr<mole::Llama<T, B>> model;
  mole::AdamW<T, B> optimizer;
  mole::CausalBatch<T, B> batch;
  Index layers;
  double kept = 0;  ///< bytes that the tape held after the last forward pass

  double step() {
    mole::MolePass<T, B> pass;
    const auto before = mole::buffer_stats<B>().in_use;
    const auto domain = model->loss(batch, pass);
    const auto loss = mole::total_loss(domain, model->balance(pass), 0.5);
    kept = static_cast<double>(mole::buffer_stats<B>().in_use - before);
    optimizer.zero_grad();
    mole::backward(loss);
    optimizer.step(1e-4);
    double outputs = 0;
    for (const auto& parameter : optimizer.parameters()) outputs += bytes(parameter.grad());
    return outputs;
  }
};

template <class T, class B>
LongTraining<T, B> make_long_training(const LlamaSize& size, Index tokens) {
  double weights = 0;
  const auto model = make_llama<T, B>(size, 8, false, weights);
  std::vector<Index> ids;
  std::vector<T> prompt;
  for (Index i = 0; i < tokens; ++i) {
    ids.push_back(3 + i * 97 % 31000);
    prompt.push_back(T(i < tokens / 4 ? 1.0f : 0.0f));
  }
  auto labels = ids;
  std::fill(labels.begin(), labels.begin() + tokens / 4, Index{-100});
  const mole::CausalBatch<T, B> batch{mole::Tensor<Index, B>::from({1, tokens}, ids),
                                      {},
                                      mole::Tensor<T, B>::from({1, tokens}, prompt),
                                      mole::Tensor<Index, B>::from({1, tokens}, labels)};
  mole::AdamW<T, B> optimizer(model->mixer().parameters());
  return {model, std::move(optimizer), batch, size.layers};
}

template <class T, class B>
void run_long_sequence(benchmark::State& state, const LlamaSize& size, Index tokens, bool again, bool away) {
  auto& training = prepared(mole::message("long_sequence", size.name, tokens),
                            [&] { return make_long_training<T, B>(size, tokens); });
  training.model->checkpoint_blocks(again);
  training.model->offload_blocks(away);
  mole::BufferPool<B>::instance().release_cached();
  training.step();  // makes AdamW's moments, and the memory that inputs wait in
  const double peak = peak_bytes<B>([&] { return training.step(); });
  const auto all = static_cast<double>(mole::buffer_stats<B>().peak);
  time_steps<B>(state, [&] { benchmark::DoNotOptimize(training.step()); });
  const auto count = [&](const char* name, double value) {
    state.counters[name] = benchmark::Counter(value, {}, benchmark::Counter::kIs1024);
  };
  count("peak_bytes", peak);
  count("with_model", all);
  state.counters["kept/token/layer"] = training.kept / static_cast<double>(tokens * training.layers);
}

/// The whole tape for the shorter length alone.
template <class T, class B>
void add_long_sequence(const LlamaSize& size, const std::vector<Index>& lengths) {
  for (const Index tokens : lengths)
    for (const char* way : {"tape", "again", "offload"}) {
      const bool again = way[0] != 't', away = way[0] == 'o';
      if (!again && tokens != lengths.front()) continue;
      if (away && !mole::detail::has_host_copies<B>) continue;
      add(std::string("long_sequence/") + size.name + "/" + std::to_string(tokens) + "/" + way,
          [&size, tokens, again, away](benchmark::State& state) {
            run_long_sequence<T, B>(state, size, tokens, again, away);
          });
    }
}

/// Small enough for a processor.
inline constexpr LlamaSize small_llama{"small", 512, 1376, 6, 4, 4};

}  // namespace bench
