#pragma once
// The gate in one kernel each way, which a backend may offer beside the primitives of its concept:
//   static bool gate_forward(const GateForward<T>&)                both return false for extents they are not made for,
//   static bool gate_backward(const GateBackward<T>&, beside)      before they have done anything
//   static bool gate_fits<T>(features, experts)         whether they will take a gate of these extents
// Ops are composed of primitives where one of the three is missing, or does not fit.

#include <concepts>

#include <mole/core/scalar.hpp>
#include <mole/core/shape.hpp>

namespace mole {

/// Gates that one kernel makes: those of layers with a common input.
inline constexpr int most_gates = 4;

/// For each of some gates, g = softmax((v F / max(|v|, eps) + bias) / tau) over the kept experts, and p = v * g
/// by each column's expert. The gates' v lie side by side in rows of `stride` elements, as do their p.
///   v [rows, features], F [features, experts], log_tau [1], keep [experts] or null, bias [experts] or null: 0;
///   p [rows, features] or null, expert [features] where p is given; g [gates, rows, experts],
///   norm [gates, rows] = max(|v|, eps)
template <class T>
struct GateForward {
  struct One {
    const T *F, *log_tau, *keep;
    const Index* expert;
    const Compute<T>* bias = nullptr;
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
/// laid out so too (and maybe dp itself), dF, dlog_tau and dbias [experts], each null where it is not wanted, are
/// written; dv is added to where `add_dv` is set, dF where `add_dF` is.
/// beside() is called once, after dv is queued. It may read dv. The sums over the rows, which are dF, dlog_tau and dbias,
/// may be made beside what it queues.
template <class T>
struct GateBackward {
  struct One {
    const T *F, *log_tau, *dg;
    const Index* expert;
    T *dF, *dlog_tau;
    bool add_dF;
    const Compute<T>* bias = nullptr;
    Compute<T>* dbias = nullptr;
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

/// Nothing to be queued beside a gate's sums.
struct NothingBeside {
  void operator()() const {}
};

namespace detail {

/// Whether the backend has the gate's kernels for T.
template <class T, class B>
constexpr bool has_gate_kernels = requires(const GateForward<T>& forward, const GateBackward<T>& backward,
                                           Index n) {
  { B::gate_forward(forward) } -> std::same_as<bool>;
  { B::gate_backward(backward, NothingBeside{}) } -> std::same_as<bool>;
  { B::template gate_fits<T>(n, n) } -> std::same_as<bool>;
};

}  // namespace detail

}  // namespace mole
