#pragma once
// The gate as one op (eq. 9-11).
//
//   v    gate input, one row a gate       F    weight [features, N]       tau = exp(log_tau)
//   z = v F / |v|                         g = softmax(z / tau)
//
// With a scale (gate_scale.hpp), z = (v / |v| - mean) * factor F = v F' / |v| + b (detail/gate_fold.hpp).
// The backward pass needs v and g alone: up to a constant that a softmax does not see, z / tau is ln g.

#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>

#include <mole/core/kernels/gate.hpp>
#include <mole/experts/ops/detail/gate_fold.hpp>
#include <mole/ops/matmul.hpp>
#include <mole/ops/norm.hpp>

namespace mole {

namespace detail {

/// Below it a length is taken for it.
inline constexpr double gate_eps = 1e-12;

/// In place, from the product v F to the gate; keeps max(|v|, eps). Where F is given the product is made here.
template <class T>
struct GateSoftmaxRow {
  const T *v, *log_tau, *keep;
  T* g;
  Compute<T>* norm;
  Index features, experts;
  Compute<T> eps;
  const Compute<T>* bias = nullptr;
  const T* F = nullptr;  ///< see FoldedGate::in_rows()

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    using C = Compute<T>;
    const T *const from = v + row.index() * features, *const kept = keep;
    const C* const b = bias;
    T* const to = g + row.index() * experts;
    C* const size_of = norm + row.index();
    const C squares = row.sum(features, [=](Index j) { return C(from[j]) * C(from[j]); });
    const C size = length_of(squares, eps), factor = exp(-C(*log_tau)) / size;
    const C lowest = detail::minus_infinity<C>();
    row.each(1, [=](Index) { *size_of = size; });
    // The bias joins the product before it is divided by the length.
    // A gate of float or double never gives F.
    const bool made_here = Narrow<T> && F;
    if constexpr (Narrow<T>)
      for (Index i = 0; made_here && i < experts; ++i) {
        const T* const column = F + i;
        const Index step = experts;
        const C product = row.sum(features, [=](Index j) { return C(from[j]) * C(column[j * step]); });
        row.each(1, [=](Index) { to[i] = T(product + size * b[i]); });
      }
    if (b && !made_here) row.each(experts, [=](Index i) { to[i] = T(C(to[i]) + size * b[i]); });
    const C top = row.max(experts, [=](Index i) { return kept && C(kept[i]) == C(0) ? lowest : C(to[i]); });
    const C total = row.sum(
        experts, [=](Index i) { return kept && C(kept[i]) == C(0) ? C(0) : exp(factor * (C(to[i]) - top)); });
    const C inverse = total > C(0) ? C(1) / total : C(0);
    row.each(experts, [=](Index i) {
      to[i] = kept && C(kept[i]) == C(0) ? T(0) : T(exp(factor * (C(to[i]) - top)) * inverse);
    });
  }
};

/// scaled = dz / |v|, along = <z - bias, dz> / |v|^2 (0 where |v| <= eps), dlog_tau = -<z, dz>; `scaled` may be G.
template <class T>
struct GateSoftmaxPullbackRow {
  const T *g, *G, *log_tau;
  const Compute<T>* norm;
  T* scaled;
  Compute<T>*along, *dlog_tau;
  Index experts;
  Compute<T> eps;
  const Compute<T>* bias = nullptr;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    using C = Compute<T>;
    const T *const p = g + row.index() * experts, *const slope = G + row.index() * experts;
    T* const to = scaled + row.index() * experts;
    const C size = norm[row.index()], dot = row.sum(experts, [=](Index i) { return C(p[i]) * C(slope[i]); });
    const C pull = row.sum(experts, [=](Index i) {
      const C weight = p[i];
      return weight > C(0) ? weight * (C(slope[i]) - dot) * std::log(weight) : C(0);
    });
    // The bias is a part of z that v has no part in.
    const C *const b = bias, inverse_tau = exp(-C(*log_tau));
    const C own =
        b ? pull -
                inverse_tau * row.sum(experts, [=](Index i) { return C(p[i]) * (C(slope[i]) - dot) * b[i]; })
          : pull;
    const C factor = inverse_tau / size, share = size > eps ? own / (size * size) : C(0);
    C *const to_along = along + row.index(), *const to_tau = dlog_tau + row.index();
    row.each(1, [=](Index) {
      *to_along = share;
      *to_tau = -pull;
    });
    row.each(experts, [=](Index i) { to[i] = factor * C(p[i]) * (C(slope[i]) - dot); });
  }
};

/// dv = beta dv - along v.
template <class T>
struct RemoveAlongRow {
  const T* v;
  const Compute<T>* along;
  T* dv;
  Index features;
  bool add;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    using C = Compute<T>;
    const T* const from = v + row.index() * features;
    T* const to = dv + row.index() * features;
    const C a = along[row.index()];
    if (add)
      row.each(features, [=](Index j) { to[j] = C(to[j]) - a * C(from[j]); });
    else
      row.each(features, [=](Index j) { to[j] = -a * C(from[j]); });
  }
};

/// Throws ShapeError, naming the op, unless a gate's operands fit an input of shape v.
template <class T, class B>
void check_gate(const char* op, const Shape& v, const Tensor<T, B>& F, const Tensor<T, B>& log_tau,
                const Tensor<T, B>& keep) {
  MOLE_CHECK_SHAPE(v.rank() >= 1 && F.rank() == 2 && v[-1] == F.size(0), op,
                   ": expected v [.., features] and F [features, N], got", v, "and", F.shape());
  MOLE_CHECK_SHAPE(log_tau.size() == 1, op, ": expected one log_tau, got", log_tau.shape());
  MOLE_CHECK_SHAPE(!keep.defined() || keep.shape() == Shape{F.size(1)}, op, ": expected a mask",
                   Shape{F.size(1)}, "got", keep.defined() ? keep.shape() : Shape{});
}

/// One row: y = the sum of x [n].
template <class T>
struct TotalRow {
  const Compute<T>* x;
  T* y;
  Index n;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const Compute<T>* const from = x;
    T* const to = y;
    const Compute<T> total = row.sum(n, [=](Index j) { return from[j]; });
    row.each(1, [=](Index) { *to = static_cast<T>(total); });
  }
};

/// The sum of the rows' dlog_tau as the gradient of log_tau.
template <class T, class B>
Tensor<T, B> gather_dlog_tau(const Tensor<Compute<T>, B>& rows, const Shape& shape) {
  const auto total = Tensor<T, B>::empty(shape);
  if constexpr (std::is_same_v<T, Compute<T>>)
    B::reduce(Reduction::sum, 1, rows.size(), 1, rows.data(), total.data());
  else
    B::for_rows(1, rows.size(), TotalRow<T>{rows.data(), total.data(), rows.size()});
  return total;
}

/// The gradients of v, F and log_tau, from dg, the gradient of g. `v_wanted` asks for dv. Where v has a
/// gradient that nobody else holds, dv is that gradient, added to.
template <class T, class B>
std::array<Tensor<T, B>, 3> gate_pullback(const Tensor<T, B>& v, bool v_wanted, const Tensor<T, B>& F,
                                          const Tensor<T, B>& log_tau, const GateScale<T, B>& scale,
                                          const FoldedGate<T, B>& folded, const Tensor<Compute<T>, B>& norm,
                                          Compute<T> eps, const Tensor<T, B>& g, const Tensor<T, B>& dg) {
  using C = Compute<T>;
  const Index features = F.size(0), N = F.size(1), rows = norm.size();
  Tensor<T, B> dv, dlog_tau;
  bool add_dv = false;
  if (v_wanted) {
    const GradTarget target(v);
    dv = target.tensor;
    add_dv = target.beta == 1;
  }
  const FoldedTarget<T, B> dF(F, scale);
  if constexpr (has_gate_kernels<T, B>) {
    if (log_tau.requires_grad()) dlog_tau = Tensor<T, B>::empty(log_tau.shape());
    auto pointer = [](const auto& x) { return x.defined() ? x.data() : nullptr; };
    GateBackward<T> a{};
    a.gate[0] = {folded.F.data(),   log_tau.data(), dg.data(),          nullptr,       dF.data(),
                 pointer(dlog_tau), dF.add,         folded.bias_data(), dF.bias_data()};
    a.gates = 1;
    a.v = v.data(), a.g = g.data(), a.norm = norm.data(), a.dv = pointer(dv);
    a.rows = rows, a.features = features, a.experts = N, a.stride = features;
    a.eps = eps, a.add_dv = add_dv;
    if (B::gate_backward(a, NothingBeside{})) return {dv, dF.gradient(), dlog_tau};
  }
  // dg turns into dz / |v| in place where nobody else reads it.
  const auto scaled = sole_owner(dg) ? dg : Tensor<T, B>::empty(g.shape());
  const auto along = Tensor<C, B>::empty({rows}), tau_rows = Tensor<C, B>::empty({rows});
  B::for_rows(rows, N,
              GateSoftmaxPullbackRow<T>{g.data(), dg.data(), log_tau.data(), norm.data(), scaled.data(),
                                        along.data(), tau_rows.data(), N, eps, folded.bias_data()});
  if (dv.defined()) {
    B::for_rows(rows, features, RemoveAlongRow<T>{v.data(), along.data(), dv.data(), features, add_dv});
    B::gemm(gemm_nt(rows, features, N, 1), scaled.data(), folded.F.data(), dv.data());
  }
  if (dF.wanted()) B::gemm(gemm_tn(features, N, rows, dF.add), v.data(), scaled.data(), dF.data());
  dF.add_bias(rows, scaled.data(), norm.data(), false);
  if (log_tau.requires_grad()) dlog_tau = gather_dlog_tau<T>(tau_rows, log_tau.shape());
  return {dv, dF.gradient(), dlog_tau};
}

}  // namespace detail

/// g = softmax(v F / max(|v|, eps) / exp(log_tau)), row by row (eq. 9-11).
/// v [.., features], F [features, N], log_tau [], keep [N] of 0 and 1 or undefined, g [.., N]. Experts that
/// are not kept get 0 and the rest are normalised, the second inference mode; with none kept all get 0.
/// With a scale, frozen, (v / max(|v|, eps) - mean) * factor takes the place of v / max(|v|, eps).
/// Pullback of G: ds = g (G - <g, G>), dz = ds / tau, dlog_tau = -<ln g, ds>, dF = v^T (dz / |v|),
/// dv = (dz F^T - v <ln g, ds> / |v|) / |v|, without the second term where |v| <= eps. With a scale, F' takes the
/// place of F, <ln g - b / tau, ds> that of <ln g, ds> in dv, and dF = factor (dF' - mean sum over rows of dz).
/// Throws ShapeError.
template <class T, class B>
Tensor<T, B> gate_softmax(const Tensor<T, B>& v, const Tensor<T, B>& F, const Tensor<T, B>& log_tau,
                          const std::type_identity_t<Tensor<T, B>>& keep = {},
                          std::type_identity_t<Compute<T>> eps = Compute<T>(detail::gate_eps),
                          const std::type_identity_t<GateScale<T, B>>& scale = {}) {
  using C = Compute<T>;
  detail::check_gate("gate_softmax", v.shape(), F, log_tau, keep);
  detail::check_scale("gate_softmax", F, scale);
  const detail::FoldedGate<T, B> folded(F, scale);
  const Index features = F.size(0), N = F.size(1), rows = v.shape().size(0, v.rank() - 1);
  const auto g = Tensor<T, B>::empty(v.shape().with(-1, N));
  const auto norm = Tensor<C, B>::empty({rows});
  const T* const kept = keep.defined() ? keep.data() : nullptr;
  bool done = false;
  if constexpr (detail::has_gate_kernels<T, B>) {
    GateForward<T> a{};
    a.gate[0] = {folded.F.data(), log_tau.data(), kept, nullptr, folded.bias_data()};
    a.gates = 1;
    a.v = v.data(), a.g = g.data(), a.norm = norm.data();
    a.rows = rows, a.features = features, a.experts = N, a.stride = features, a.eps = eps;
    done = B::gate_forward(a);
  }
  if (!done) {
    if (!folded.in_rows())
      B::gemm(Gemm{.m = rows, .n = N, .k = features, .lda = features, .ldb = N, .ldc = N}, v.data(),
              folded.F.data(), g.data());
    B::for_rows(rows, std::max(features, N),
                detail::GateSoftmaxRow<T>{v.data(), log_tau.data(), kept, g.data(), norm.data(), features, N,
                                          eps, folded.bias_data(), folded.in_rows()});
  }
  return record(
      {v, F, log_tau}, g, [v, F, log_tau, scale, folded, norm, eps](const auto& weights, const auto& G) {
        return detail::gate_pullback(v, v.requires_grad(), F, log_tau, scale, folded, norm, eps, weights, G);
      });
}

}  // namespace mole
