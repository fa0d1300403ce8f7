#pragma once
// A gated mixture on a backend that has for_chunks: a thread takes some rows through all steps while they are in its
// cache, and threads wait for one another once forth and twice back, not at every step. This is what makes a step
// cost about its floating-point operations, and what a busy machine cannot stretch.

#include <concepts>
#include <optional>

#include <mole/experts/ops/detail/gated_operands.hpp>

namespace mole::detail {

/// Whether the backend has for_chunks for numbers of type T: narrow ones are copied to float for each product, W for
/// each chunk then.
template <class T, class B>
constexpr bool has_chunks = std::floating_point<T>&& requires(Index n) {
  { B::chunk_rows(n) } -> std::same_as<Index>;
};

/// h, the gate into g, and y.
template <class T, class B>
Tensor<T, B> gated_forward_by_chunks(const GatedOperands<T, B>& s, const Tensor<T, B>& gate) {
  const auto& l = s.layer;
  const Index size = B::chunk_rows(s.rows);
  const auto y = Tensor<T, B>::empty(s.x.shape().with(-1, s.d_out));
  const bool with_W = l.W.dense().defined() && B::chunks_suit_products(size);
  B::for_chunks(s.rows, size, [&](Index first, Index count) {
    const T* const x = s.x.data() + first * s.d_in;
    T *const g = gate.data() + first * s.N, *const h = s.h.data() + first * s.R,
             *const to = y.data() + first * s.d_out;
    const auto p = Tensor<T, B>::empty({count, s.R});
    B::gemm(gemm_nt(count, s.R, s.d_in), x, l.A.data(), h);
    B::gemm(Gemm{.m = count, .n = s.N, .k = s.R, .lda = s.R, .ldb = s.N, .ldc = s.N}, h, s.folded.F.data(),
            g);
    s.gate_rows(first, count, g, p.data());
    if (l.c.defined()) B::for_rows(count, s.d_out, RepeatRow<T>{to, l.c.data(), s.d_out});
    B::gemm(gemm_nt(count, s.d_out, s.R, l.c.defined() ? 1 : 0), p.data(), l.Q.data(), to);
    if (with_W) l.W.forward(count, x, true, to);
  });
  if (!with_W) l.W.forward(s.rows, s.x.data(), true, y.data());
  return y;
}

/// dx, dF, dlog_tau. dg is what the gate's readers sent, or undefined.
template <class T, class B>
GatedGradients<T, B> gated_pullback_by_chunks(const GatedOperands<T, B>& s, const Tensor<T, B>& gate,
                                              const Tensor<T, B>& G, const Tensor<T, B>& dg) {
  using C = Compute<T>;
  const auto& l = s.layer;
  const Index size = B::chunk_rows(s.rows);
  std::optional<GradTarget<T, B>> dx;
  if (s.x.requires_grad()) dx.emplace(s.x);
  const bool with_W = dx && l.W.dense().defined() && B::chunks_suit_products(size);
  const auto slopes = Tensor<T, B>::empty({s.rows, s.N});
  const auto tau_rows = Tensor<C, B>::empty({s.rows});
  B::for_chunks(s.rows, size, [&](Index first, Index count) {
    const T* const rows_G = G.data() + first * s.d_out;
    T* const slope = slopes.data() + first * s.N;
    const auto dp = Tensor<T, B>::empty({count, s.R});
    const auto along = Tensor<C, B>::empty({count});
    B::gemm(gemm_nn(count, s.R, s.d_out), rows_G, l.Q.data(), dp.data());
    s.pull_rows(first, count, gate.data() + first * s.N, dg.defined() ? dg.data() + first * s.N : nullptr,
                dp.data(), slope, along.data(), tau_rows.data() + first, dx.has_value());
    if (!dx) return;
    T* const to = dx->tensor.data() + first * s.d_in;
    B::gemm(gemm_nt(count, s.R, s.N, 1), slope, s.folded.F.data(), dp.data());
    B::gemm(gemm_nn(count, s.d_in, s.R, dx->beta), dp.data(), l.A.data(), to);
    if (with_W) l.W.backward(count, rows_G, true, to);
  });
  if (dx && !with_W) l.W.backward(s.rows, G.data(), true, dx->tensor.data());
  // Of all rows at once, so that the order of a sum does not depend on which thread had which rows.
  const FoldedTarget<T, B> dF(l.F, l.scale);
  if (dF.wanted()) {
    B::gemm(gemm_tn(s.R, s.N, s.rows, dF.add ? 1 : 0), s.h.data(), slopes.data(), dF.data());
    dF.add_bias(s.rows, slopes.data(), s.norm.data(), false);
  }
  return {dx ? dx->tensor : Tensor<T, B>(), dF.gradient(),
          l.log_tau.requires_grad() ? gather_dlog_tau<T>(tau_rows, l.log_tau.shape()) : Tensor<T, B>()};
}

}  // namespace mole::detail
