#pragma once
// The products of a mixture, off the tape: x W^T + c + p Q^T, and back from its gradient G to dx and dp. Q is
// one for all sequences, [d_out, R], or each sequence has its own, Q^T of [S, R, d_out].

#include <vector>

#include <mole/autodiff/record.hpp>
#include <mole/core/gemm.hpp>
#include <mole/core/kernels/two_products.hpp>
#include <mole/nn/frozen_weight.hpp>
#include <mole/ops/detail/broadcast.hpp>

namespace mole::detail {

/// y = p Q^T + beta y, off the tape.  p [S, L, R], Q [d_out, R] or [S, R, d_out], y [S, L, d_out].
template <class T, class B>
void through_Q(const Tensor<T, B>& p, const Tensor<T, B>& Q, int beta, const Tensor<T, B>& y) {
  const Index S = p.size(0), L = p.size(1), R = p.size(2), d_out = y.size(2);
  const Gemm spec = Q.rank() == 2 ? gemm_nt(S * L, d_out, R, beta)
                                  : batched(gemm_nn(L, d_out, R, beta), S, L * R, R * d_out, L * d_out);
  B::gemm(spec, p.data(), Q.data(), y.data());
}

/// A matrix's elements, or null where W is not a dense matrix.
template <class T, class B>
const T* dense_data(const FrozenWeight<T, B>& W) {
  return W.dense().defined() ? W.dense().data() : nullptr;
}

/// y = x W^T + c + p Q^T for a kernel.  x [rows, d_in], p [rows, R], Q [d_out, R], y [rows, d_out].
template <class T, class B>
TwoProducts<T> products_forth(Index rows, const T* x, const FrozenWeight<T, B>& W, const Tensor<T, B>& c,
                              const T* p, const Tensor<T, B>& Q, T* y) {
  return {.a0 = x,
          .b0 = dense_data(W),
          .a1 = p,
          .b1 = Q.data(),
          .d = y,
          .c = {c.defined() ? c.data() : nullptr},
          .rows = rows,
          .columns = W.d_out(),
          .inner0 = W.d_in(),
          .inner1 = Q.size(1),
          .stride1 = Q.size(1)};
}

/// dx = G W + dh A, or added to dx, for a kernel.  G [rows, d_out], dh [rows, R], A [R, d_in], dx [rows, d_in].
template <class T, class B>
TwoProducts<T> products_back(Index rows, const T* G, const FrozenWeight<T, B>& W, const T* dh, const T* A,
                             Index R, bool add, T* dx) {
  return {.a0 = G,
          .b0 = dense_data(W),
          .a1 = dh,
          .b1 = A,
          .d = dx,
          .rows = rows,
          .columns = W.d_in(),
          .inner0 = W.d_out(),
          .inner1 = R,
          .stride1 = R,
          .across = true,
          .add = add};
}

/// Where the kernel takes `a` but for b0, as the W_i are not dense and adjacent: their numbers for the moment, adjacent, to
/// which b0 is set. They are no older than A1. Else undefined.
template <class T, class B>
Tensor<T, B> numbers_for_kernel(const std::vector<FrozenWeight<T, B>>& weights, TwoProducts<T>& a) {
  auto with_any = a;
  with_any.b0 = a.a0;
  if (!two_products_fit<B>(with_any)) return {};
  auto numbers = Tensor<T, B>::empty({a.count, a.columns * a.inner0});
  T* out = numbers.data();
  for (const auto& W : weights) {
    if (!W.numbers_to(a.rows, out)) return {};
    out += a.columns * a.inner0;
  }
  a.b0 = numbers.data(), a.early = false;
  return numbers;
}
/// The same of one W; undefined, too, where it is dense.
template <class T, class B>
Tensor<T, B> numbers_for_kernel(const FrozenWeight<T, B>& W, TwoProducts<T>& a) {
  return a.b0 ? Tensor<T, B>() : numbers_for_kernel(std::vector{W}, a);
}

/// x W^T + c + p Q^T, off the tape.  p [S, L, R], Q as above.
template <class T, class B>
Tensor<T, B> mixture_products(const Tensor<T, B>& x, const FrozenWeight<T, B>& W, const Tensor<T, B>& c,
                              const Tensor<T, B>& p, const Tensor<T, B>& Q) {
  const Index d_out = W.d_out(), tokens = x.size(0) * x.size(1);
  const auto y = Tensor<T, B>::empty(x.shape().with(-1, d_out));
  if constexpr (has_two_products<T, B>)
    if (Q.rank() == 2) {
      auto both = products_forth(tokens, x.data(), W, c, p.data(), Q, y.data());
      const auto numbers = numbers_for_kernel(W, both);
      if (by_two_products<B>(both)) return y;
    }
  if (c.defined()) B::for_rows(tokens, d_out, RepeatRow<T>{y.data(), c.data(), d_out});
  // The narrow product first: the wide one then adds to it while it multiplies.
  through_Q(p, Q, c.defined() ? 1 : 0, y);
  W.forward(tokens, x.data(), true, y.data());
  return y;
}

/// G W, added to what x has where that may be; undefined where x needs no gradient.
template <class T, class B>
Tensor<T, B> mixture_dx(const Tensor<T, B>& x, const FrozenWeight<T, B>& W, const Tensor<T, B>& G) {
  if (!x.requires_grad()) return {};
  const GradTarget target(x);
  W.backward(x.size(0) * x.size(1), G.data(), target.beta == 1, target.tensor.data());
  return target.tensor;
}

/// G Q, the gradient of p = g * h.
template <class T, class B>
Tensor<T, B> mixture_dp(const Tensor<T, B>& h, const Tensor<T, B>& Q, const Tensor<T, B>& G) {
  const auto dp = Tensor<T, B>::empty(h.shape());
  const Index S = h.size(0), L = h.size(1), R = h.size(2), d_out = G.size(-1);
  const Gemm spec = Q.rank() == 2 ? gemm_nn(S * L, R, d_out)
                                  : batched(gemm_nt(L, R, d_out), S, L * d_out, R * d_out, L * R);
  B::gemm(spec, G.data(), Q.data(), dp.data());
  return dp;
}

}  // namespace mole::detail
