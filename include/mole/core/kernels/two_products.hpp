#pragma once
// The two products of a mixture in one kernel, which a backend may offer beside the primitives of its concept:
//   static bool two_products_fit(const TwoProducts<T>&)   whether it is made for these
//   static void two_products(const TwoProducts<T>&)
// Ops multiply twice by gemm where the two are missing, or do not fit.

#include <concepts>

#include <mole/core/kernels/gate.hpp>
#include <mole/core/shape.hpp>

namespace mole {

/// D_i = A0 B0_i + A1_i B1_i + c_i for i < count, rounded once; added to D_i where `add` is set. MoLE's
/// y_i = x W_i^T + p_i Q_i^T + c_i are such sums, and so is dx = G W + dh A'.
///   A0 [rows, inner0], the same for all i; A1_i [rows, inner1], in rows of `stride1` elements, A1_(i+1) inner1 further on;
///   B0_i and B1_i adjacent, [columns, inner] each (null B0: not a dense matrix), or [inner, columns] where `across` is set;
///   c_i [columns] or null; D_i [rows, columns], adjacent. D overlaps nothing else.
/// `early` says that A0, B and c are complete before the work that makes A1 begins: a kernel may then read them while that
/// work still goes on.
template <class T>
struct TwoProducts {
  const T *a0, *b0, *a1, *b1;
  T* d;
  const T* c[most_gates] = {};
  Index rows, columns, inner0, inner1, stride1;
  int count = 1;
  bool across = false, add = false, early = true;
};

namespace detail {

/// Whether the backend has the kernel for T.
template <class T, class B>
constexpr bool has_two_products = requires(const TwoProducts<T>& a) {
  { B::two_products_fit(a) } -> std::same_as<bool>;
  B::two_products(a);
};

/// Whether the backend's kernel takes these. For a backend that has it.
template <class B, class T>
bool two_products_fit(const TwoProducts<T>& a) {
  return a.b0 != nullptr && B::two_products_fit(a);
}

/// The two products by the backend's kernel; false, and nothing is done, where it does not take them.
template <class B, class T>
bool by_two_products(const TwoProducts<T>& a) {
  const bool fit = two_products_fit<B>(a);
  if (fit) B::two_products(a);
  return fit;
}

}  // namespace detail

}  // namespace mole
