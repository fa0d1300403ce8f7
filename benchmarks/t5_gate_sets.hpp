#pragma once
// t5_gate_sets/<n>: the forward pass of the T5 of t5_many_experts/top2 where its 48 sequences ask for n sets of gates in
// turn; 1 is the model's own. rank32/<n>: the same with gates of rank 32.

#include <string>
#include <utility>
#include <vector>

#include "t5_many_experts.hpp"

namespace bench {

template <class T, class B>
GateTraining<T, B> make_gate_sets(Index sets, Index gate_rank) {
  return make_many_experts<T, B>([&](mole::T5<T, B>& model) {
    model.attach(random_experts(model, ManyExperts::n_experts, ManyExperts::r),
                 mole::GateOptions{.top_k = 2, .gate_rank = gate_rank});
    auto& mixer = model.mixer();
    for (Index s = 1; s < sets; ++s) {
      auto set = mixer.new_set(model.layers().table, mole::message("set", s));
      for (const auto& tensor : set.router->tensors())
        if (tensor.rank() == 2) tensor.assign(draw<T, B>(tensor.shape()));
      mixer.add_set(std::move(set));
    }
  });
}

template <class T, class B>
void run_gate_sets(benchmark::State& state, const std::string& name, Index sets, Index gate_rank) {
  auto& made = prepared(name, [&] { return make_gate_sets<T, B>(sets, gate_rank); });
  const mole::NoGrad off;
  std::vector<Index> chosen;
  for (Index s = 0; sets > 1 && s < ManyExperts::S; ++s) chosen.push_back(s % sets);
  time_steps<B>(state, [&] {
    mole::MolePass<T, B> pass;
    pass.sets = chosen;
    benchmark::DoNotOptimize(made.model.loss(made.batch, pass));
  });
}

template <class T, class B>
void add_gate_sets() {
  for (const Index gate_rank : {0, 32})
    for (const Index sets : {1, 4, 48}) {
      const std::string name = (gate_rank ? "t5_gate_sets/rank32/" : "t5_gate_sets/") + std::to_string(sets);
      add(name, [=](benchmark::State& state) { run_gate_sets<T, B>(state, name, sets, gate_rank); });
    }
}

}  // namespace bench
