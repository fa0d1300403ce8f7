#pragma once
// decode/: one token of a Llama, greedily, with 8 experts of rank 16 on every linear layer or without any. The gates are
// those of the default, one a block: they were made while the prompt was read, and stay. nf4: the linear layers' frozen
// weights are packed as bitsandbytes does. apart: products of a row are cuBLAS's, on a backend with kernels of its own.

#include <memory>

#include "layer.hpp"
#include "llama.hpp"

namespace bench {

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

/// A model that has read a prompt of 64 tokens.
template <class T, class B>
Decoding<T, B> make_decoding(const LlamaSize& size, Index n_experts, bool nf4) {
  constexpr Index prompt_length = 64;
  Decoding<T, B> d;
  d.model = make_llama<T, B>(size, n_experts, nf4, d.weights);
  const mole::NoGrad off;
  std::vector<Index> ids;
  for (Index i = 0; i < prompt_length; ++i) ids.push_back(3 + i * 97 % 31000);
  d.model->next_logits(mole::Tensor<Index, B>::from({1, prompt_length}, ids), {}, d.pass, d.prompt);
  d.token = mole::Tensor<Index, B>::from({1, 1}, {1234});
  return d;
}

template <class T, class B>
void run_decode(benchmark::State& state, const LlamaSize& size, Index n_experts, bool nf4, bool graph,
                bool apart) {
  if constexpr (has_apart<B>) B::use_two_products() = !apart;
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
      for (const bool graph : {false, true})
        for (const bool apart : {false, true}) {
          if ((graph && !mole::has_graphs<B>) || (apart && (nf4 || !has_apart<B>))) continue;
          const auto name = std::string("decode/") + size.name + (n_experts ? "/mole" : "/bare") +
                            (nf4 ? "/nf4" : "") + (apart ? "/apart" : "") + (graph ? "/graph" : "");
          add(name, [=, &size](benchmark::State& state) {
            run_decode<T, B>(state, size, n_experts, nf4, graph, apart);
          });
        }
}

}  // namespace bench
