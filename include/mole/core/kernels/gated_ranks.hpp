#pragma once
// What a mixture multiplies with Q, in one kernel, which a backend may offer beside the primitives of its concept:
//   static bool gated_ranks(const GatedRanks<T>&)   false, before it has done anything, for what it is not made for
// Where it is missing, or does not fit, ops multiply by gemm and then by the gate.

#include <concepts>

#include <mole/core/shape.hpp>

namespace mole {

/// p = g * (x A^T), each rank by the weight of its expert (eq. 12 in rank space).
///   x [rows, d_in], A [ranks, d_in], g [rows / rows_per_gate, experts], column [ranks]: a rank's expert, p [rows, ranks]
template <class T>
struct GatedRanks {
  const T *x, *A, *g;
  const Index* column;
  T* p;
  Index rows, d_in, ranks, experts, rows_per_gate;
};

namespace detail {

/// Whether the backend has the kernel for T.
template <class T, class B>
constexpr bool has_gated_ranks = requires(const GatedRanks<T>& a) {
  { B::gated_ranks(a) } -> std::same_as<bool>;
};

}  // namespace detail

}  // namespace mole
