#pragma once
// products/: the two matrix products of a mixture's forward pass, y = x W^T + p Q^T, one of three ways. The
// library accumulates: p Q^T first, and x W^T adds to it in its epilogue.

#include "layer.hpp"

namespace bench {

enum class Products {
  accumulated,       ///< two products, the second adds to the first
  concatenated,      ///< one, of [x p] and [W Q], as if x had been written beside p by whoever made it
  copy_concatenated  ///< the same, with x copied there first
};
inline constexpr const char* products_names[] = {"accumulated", "concatenated", "copy_concatenated"};

template <class T, class B>
void run_products(benchmark::State& state, const LayerShape& s, Products way) {
  const Index tokens = s.S * s.L, R = s.sum_of_ranks(), k = s.d_in + R;
  const auto x = draw<T, B>({tokens, s.d_in}), W = draw<T, B>({s.d_out, s.d_in}, s.d_in),
             p = draw<T, B>({tokens, R}), Q = draw<T, B>({s.d_out, R}, s.d_out),
             together = draw<T, B>({tokens, k}), weights = draw<T, B>({s.d_out, k}, s.d_in);
  const auto y = mole::Tensor<T, B>::empty({tokens, s.d_out});
  time_steps<B>(state, [&] {
    if (way == Products::accumulated) {
      B::gemm(mole::detail::gemm_nt(tokens, s.d_out, R), p.data(), Q.data(), y.data());
      B::gemm(mole::detail::gemm_nt(tokens, s.d_out, s.d_in, 1), x.data(), W.data(), y.data());
    } else {
      if (way == Products::copy_concatenated)
        B::for_rows(tokens, s.d_in, mole::detail::CopyRow<T>{x.data(), together.data(), s.d_in, s.d_in, k});
      B::gemm(mole::detail::gemm_nt(tokens, s.d_out, k), together.data(), weights.data(), y.data());
    }
    benchmark::ClobberMemory();
  });
  set_flops(state, 2 * s.tokens() * static_cast<double>(k * s.d_out));
}

template <class T, class B>
void add_products(const LayerShape& s) {
  for (const auto way : {Products::accumulated, Products::concatenated, Products::copy_concatenated})
    add(std::string("products/") + products_names[static_cast<int>(way)] + "/" + s.name,
        [&s, way](benchmark::State& state) { run_products<T, B>(state, s, way); });
}

}  // namespace bench
