#pragma once
// Attention in one kernel each way, which a backend may offer beside the primitives of its concept:
//   static bool attention_forward(const AttentionForward<T>&)     false for extents it is not made for, before
//                                                                 it has done anything
//   static bool attention_backward(const AttentionBackward<T>&)   only after a forward that returned true
// The op is composed of primitives where one of the two is missing, or does not fit.

#include <concepts>

#include <mole/core/scalar.hpp>
#include <mole/core/shape.hpp>

namespace mole {

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

namespace detail {

/// Whether the backend has attention in one kernel for T.
template <class T, class B>
constexpr bool has_attention_kernels = requires(const AttentionForward<T>& forward,
                                                const AttentionBackward<T>& backward) {
  { B::attention_forward(forward) } -> std::same_as<bool>;
  { B::attention_backward(backward) } -> std::same_as<bool>;
};

}  // namespace detail

}  // namespace mole
