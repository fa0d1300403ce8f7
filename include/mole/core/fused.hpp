#pragma once
// Arguments of the fused kernels a backend may offer beside the primitives of its concept. Ops take one by
// `if constexpr (requires { B::gate_forward(arguments); })` and are composed of primitives otherwise; a
// kernel returns false for extents it is not made for, before it has done anything.

#include <mole/core/scalar.hpp>
#include <mole/core/shape.hpp>

namespace mole {

/// Gates that one kernel makes: those of layers with a common input.
inline constexpr int most_gates = 4;

/// For each of some gates, g = softmax(v F / max(|v|, eps) / tau) over the kept experts, and p = v * g by
/// each column's expert. The gates' v lie side by side in rows of `stride` elements, as do their p.
///   v [rows, features], F [features, experts], log_tau [1], keep [experts] or null; p [rows, features] or
///   null, expert [features] where p is given; g [gates, rows, experts], norm [gates, rows] = max(|v|, eps)
template <class T>
struct GateForward {
  struct One {
    const T *F, *log_tau, *keep;
    const Index* expert;
  };
  One gate[most_gates];
  int gates;
  const T* v;
  T* g;
  Compute<T>* norm;
  T* p;
  Index rows, features, experts, stride;
  Compute<T> eps;
};

/// Its pullback. dg [rows, experts] or null is a gate's gradient, dp that of p, laid out as v, or null. dv,
/// laid out so too (and maybe dp itself), dF and dlog_tau, each null where it is not wanted, are written; dv
/// is added to where `add_dv` is set, dF where `add_dF` is.
template <class T>
struct GateBackward {
  struct One {
    const T *F, *log_tau, *dg;
    const Index* expert;
    T *dF, *dlog_tau;
    bool add_dF;
  };
  One gate[most_gates];
  int gates;
  const T *v, *g;
  const Compute<T>* norm;
  const T* dp;
  T* dv;
  Index rows, features, experts, stride;
  Compute<T> eps;
  bool add_dv;
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

/// Its pullback: dq, dk, dv, dbias, each null where it is not wanted.
template <class T>
struct AttentionBackward {
  AttentionForward<T> forward;
  const T* G;
  T *dq, *dk, *dv, *dbias;
};

}  // namespace mole
