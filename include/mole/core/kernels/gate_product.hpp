#pragma once
// A gate's kernels together with the product that they read, which a backend may offer beside those of gate.hpp:
//   static bool gate_product_fits(const GateProduct<T>&)                           whether it is made for these
//   static void gate_product_forward(const GateForward<T>&, const GateProduct<T>&)
//   static void gate_product_backward(const GateBackward<T>&, const GateProduct<T>&, beside)
// Ops multiply first where the three are missing, or do not fit.

#include <concepts>

#include <mole/core/kernels/gate.hpp>

namespace mole {

/// The product of a launch of gates, of their extents. Forth, v = a b^T is written to `made`, which is the gates' v; they
/// have a p:
///   a [rows, inner], the same for all gates; b [gates features, inner].
/// Back, dp_i = a_i b_i is what the gates' pullback reads; their dp is null, and dv is not added to:
///   a_i [rows, inner]; b_i [inner, features], adjacent.
template <class T>
struct GateProduct {
  const T* a[most_gates];  ///< forth the first alone
  const T* b;
  T* made;  ///< [rows, stride]; not used back
  Index rows, inner, features, experts, stride;
  int gates;
  bool back;
};

namespace detail {

/// Whether the backend has these kernels for T.
template <class T, class B>
constexpr bool has_gate_products = requires(const GateForward<T>& forward, const GateBackward<T>& backward,
                                            const GateProduct<T>& product) {
  { B::gate_product_fits(product) } -> std::same_as<bool>;
  B::gate_product_forward(forward, product);
  B::gate_product_backward(backward, product, NothingBeside{});
};

}  // namespace detail

}  // namespace mole
