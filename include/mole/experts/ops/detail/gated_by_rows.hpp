#pragma once
// A gated mixture by matrix products and row functors, which any backend has.

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <utility>

#include <mole/core/branch.hpp>
#include <mole/experts/ops/detail/gated_operands.hpp>
#include <mole/experts/ops/detail/mixture_products.hpp>

namespace mole::detail {

/// Tokens that are worked on at a time: enough for a matrix product to run at full speed, and of a batch
/// worth saving memory at no more than half. A backend that has kernels would be held up by their launches.
template <class T, class B>
Index gated_rows_at_once(Index rows) {
  if constexpr (has_gate_kernels<T, B>) return std::max<Index>(rows, 1);
  return std::min(std::clamp<Index>((rows + 1) / 2, 64, 512), std::max<Index>(rows, 1));
}

/// h, the gate into g, and y chunk by chunk.
template <class T, class B>
Tensor<T, B> gated_forward_by_rows(const GatedOperands<T, B>& s, const Tensor<T, B>& gate) {
  const auto& l = s.layer;
  const auto y = Tensor<T, B>::empty(s.x.shape().with(-1, s.d_out));
  const Index most = gated_rows_at_once<T, B>(s.rows);
  const auto p = Tensor<T, B>::empty({most, s.R});
  [[maybe_unused]] TwoProducts<T> both;
  [[maybe_unused]] Tensor<T, B> numbers;  // of a W that is not dense
  bool at_once = false;
  if constexpr (has_two_products<T, B>)
    if (most >= s.rows) {
      both = products_forth(s.rows, s.x.data(), l.W, l.c, p.data(), l.Q, y.data());
      numbers = numbers_for_kernel(l.W, both);
      at_once = two_products_fit<B>(both);
    }
  if (l.c.defined() && !at_once) B::for_rows(s.rows, s.d_out, RepeatRow<T>{y.data(), l.c.data(), s.d_out});
  const auto add_frozen = [&](bool add) { l.W.forward(s.rows, s.x.data(), add, y.data()); };
  // Beside the gate, whose steps leave most of the device idle, or last.
  Branch<B> branch;
  const bool frozen_first = !at_once && branch.begin([&] { add_frozen(l.c.defined()); });
  B::gemm(gemm_nt(s.rows, s.R, s.d_in), s.x.data(), l.A.data(), s.h.data());
  if (!s.folded.in_rows())
    B::gemm(Gemm{.m = s.rows, .n = s.N, .k = s.R, .lda = s.R, .ldb = s.N, .ldc = s.N}, s.h.data(),
            s.folded.F.data(), gate.data());
  for (Index first = 0; first < s.rows; first += most) {
    const Index count = std::min(most, s.rows - first);
    s.gate_rows(first, count, gate.data() + first * s.N, p.data());
    branch.join();
    if constexpr (has_two_products<T, B>)
      if (at_once) {
        B::two_products(both);
        return y;
      }
    B::gemm(gemm_nt(count, s.d_out, s.R, frozen_first || l.c.defined() ? 1 : 0), p.data(), l.Q.data(),
            y.data() + first * s.d_out);
  }
  if (!frozen_first) add_frozen(true);
  return y;
}

/// dx, dF, dlog_tau chunk by chunk. dg is what the gate's readers sent, or undefined. `last`: nobody will ask
/// for what the forward pass kept again.
template <class T, class B>
GatedGradients<T, B> gated_pullback_by_rows(GatedOperands<T, B>& s, const Tensor<T, B>& gate,
                                            const Tensor<T, B>& G, const Tensor<T, B>& dg, bool last) {
  using C = Compute<T>;
  const auto& l = s.layer;
  const bool wanted = s.x.requires_grad();
  std::optional<GradTarget<T, B>> dx;
  const FoldedTarget<T, B> dF(l.F, l.scale);
  if (dF.wanted() && s.rows == 0) {
    if (!dF.add) dF.dF.fill(T(0));
    dF.add_bias(0, nullptr, nullptr, false);
  }
  bool frozen_added = false;
  const Index most = gated_rows_at_once<T, B>(s.rows);
  const auto dp = Tensor<T, B>::empty({most, s.R}), slopes = Tensor<T, B>::empty({most, s.N});
  const auto along = Tensor<C, B>::empty({most}), tau_rows = Tensor<C, B>::empty({s.rows});
  for (Index first = 0; first < s.rows; first += most) {
    const Index count = std::min(most, s.rows - first);
    B::gemm(gemm_nn(count, s.R, s.d_out), G.data() + first * s.d_out, l.Q.data(), dp.data());
    s.pull_rows(first, count, gate.data() + first * s.N, dg.defined() ? dg.data() + first * s.N : nullptr,
                dp.data(), slopes.data(), along.data(), tau_rows.data() + first, wanted);
    const auto add_dF = [&] {
      B::gemm(gemm_tn(s.R, s.N, count, first > 0 || dF.add ? 1 : 0), s.h.data() + first * s.R, slopes.data(),
              dF.data());
      dF.add_bias(count, slopes.data(), s.norm.data() + first, first > 0);
    };
    Branch<B> branch;
    if (dF.wanted() && !branch.begin(add_dF)) add_dF();
    if (wanted) B::gemm(gemm_nt(count, s.R, s.N, 1), slopes.data(), s.folded.F.data(), dp.data());
    branch.join();
    if (last && first + count == s.rows) s.h = {};  // before dx is there, if this is the only chunk
    if (!wanted) continue;
    if (!dx) dx.emplace(s.x);
    if constexpr (has_two_products<T, B>)
      if (most >= s.rows) {
        auto both = products_back(s.rows, G.data(), l.W, dp.data(), l.A.data(), s.R, dx->beta == 1,
                                  dx->tensor.data());
        const auto numbers = numbers_for_kernel(l.W, both);
        frozen_added = by_two_products<B>(both);
        if (frozen_added) continue;
      }
    B::gemm(gemm_nn(count, s.d_in, s.R, dx->beta), dp.data(), l.A.data(), dx->tensor.data() + first * s.d_in);
  }
  if (wanted && !dx) dx.emplace(s.x);
  // The narrow product first: the wide one then adds to it while it multiplies.
  const auto add_frozen = [&] { l.W.backward(s.rows, G.data(), true, dx->tensor.data()); };
  Branch<B> branch;
  if (wanted && !frozen_added && !branch.begin(add_frozen)) add_frozen();
  const auto dlog_tau =
      l.log_tau.requires_grad() ? gather_dlog_tau<T>(tau_rows, l.log_tau.shape()) : Tensor<T, B>();
  branch.join();
  return {wanted ? dx->tensor : Tensor<T, B>(), dF.gradient(), dlog_tau};
}

}  // namespace mole::detail
