#pragma once
// packed/<format>/<tokens>: a frozen layer whose weight stays packed, beside the dense one, as packed/dense.

#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include <mole/nn/packed_weight.hpp>

#include "bench.hpp"
#include "random_rows.hpp"

namespace bench {

template <class T, class B>
struct PackedLayer {
  mole::FrozenWeight<T, B> W;
  mole::Tensor<T, B> x, G, y, dx;
};

/// y of a layer, and with many tokens dx: a few tokens are those of a decoder.
template <class T, class B>
void run_packed(benchmark::State& state, const PackedKind* kind, Index tokens) {
  constexpr Index n = 4096;
  const std::string name = kind ? kind->name : "dense";
  const auto& layer = prepared("packed/" + name + "/" + std::to_string(tokens), [&] {
    using Tensor = mole::Tensor<T, B>;
    const mole::Shape shape{n, n}, batch{tokens, n};
    auto W = kind ? mole::packed_weight<T, B>(random_rows(*kind, shape))
                  : mole::FrozenWeight<T, B>(draw<T, B>(shape, n));
    return PackedLayer<T, B>{W, draw<T, B>(batch), draw<T, B>(batch), Tensor::empty(batch),
                             Tensor::empty(batch)};
  });
  const bool step = tokens >= 512;
  time_steps<B>(state, [&] {
    layer.W.forward(tokens, layer.x.data(), false, layer.y.data());
    if (step) layer.W.backward(tokens, layer.G.data(), false, layer.dx.data());
    benchmark::ClobberMemory();
  });
  set_flops(state, (step ? 4.0 : 2.0) * static_cast<double>(tokens * n * n));
}

template <class T, class B>
void add_packed() {
  constexpr bool on_cpu = std::is_same_v<B, mole::Cpu>;
  if constexpr (!on_cpu || std::is_floating_point_v<T>) {
    std::vector<const PackedKind*> kinds{nullptr};
    for (const auto& kind : packed_kinds) kinds.push_back(&kind);
    for (const Index tokens : on_cpu ? std::vector<Index>{1, 16, 512} : std::vector<Index>{1, 4, 8, 32, 8192})
      for (const auto* kind : kinds) {
        const std::string name =
            "packed/" + std::string(kind ? kind->name : "dense") + "/" + std::to_string(tokens);
        add(name, [=](benchmark::State& state) { run_packed<T, B>(state, kind, tokens); });
      }
  }
}

}  // namespace bench
