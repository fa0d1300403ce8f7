#pragma once
// Arguments of the fused kernels a backend may offer beside the primitives of its concept. Ops take one by
// `if constexpr (requires { B::gate_forward(arguments); })` and are composed of primitives otherwise; a
// kernel returns false for extents it is not made for, before it has done anything.

#include <mole/core/scalar.hpp>
#include <mole/core/shape.hpp>

namespace mole {

/// g = softmax(v F / max(|v|, eps) / tau) over the kept experts, and p = v * g by each column's expert.
///   v [rows, features], F [features, experts], log_tau [1], keep [experts] or null, g [rows, experts],
///   norm [rows] = max(|v|, eps); p [rows, features] or null, expert [features] where p is given
template <class T>
struct GateForward {
  const T *v, *F, *log_tau, *keep;
  const Index* expert;
  T* g;
  Compute<T>* norm;
  T* p;
  Index rows, features, experts;
  Compute<T> eps;
};

/// Its pullback. dg [rows, experts] or null is g's gradient, dp [rows, features] or null that of p; dv (may
/// be dp itself), dF and dlog_tau, each null where it is not wanted, are written, the first two added to
/// where `add_dv` or `add_dF` is set.
template <class T>
struct GateBackward {
  const T *v, *F, *log_tau, *g;
  const Compute<T>* norm;
  const T *dg, *dp;
  const Index* expert;
  T *dv, *dF, *dlog_tau;
  Index rows, features, experts;
  Compute<T> eps;
  bool add_dv, add_dF;
};

/// y = softmax(scale q k^T + bias over the visible keys) v by heads, without storing the scores.
///   q, y [S, Lq, H d]; k, v [S, Lk, H d]; bias [H, Lq, Lk] or null; key_mask [S, Lk] or null;
///   log_sum [S, H, Lq]: ln sum exp of a query's scores, infinity where it sees no key
template <class T>
struct AttentionForward {
  const T *q, *k, *v, *bias, *key_mask;
  T* y;
  Compute<T>* log_sum;
  Index sequences, heads, queries, keys, width;
  Compute<T> scale;
  bool causal;
};

/// Its pullback: dq, dk, dv, dbias, each null where it is not wanted. inner [S, H, Lq] is scratch.
template <class T>
struct AttentionBackward {
  AttentionForward<T> forward;
  const T* G;
  Compute<T>* inner;
  T *dq, *dk, *dv, *dbias;
};

}  // namespace mole
