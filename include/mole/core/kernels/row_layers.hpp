#pragma once
// Linear layers that read the same few rows, as a decoder's steps have them: two kernels, each for several layers in one
// launch, which a backend may offer beside the primitives of its concept:
//   static bool gated_ranks(const GatedRanks<T>&)         false, before it has done anything, for what it is not made for
//   static bool row_products_fit(const RowProducts<T>&)   whether the last one is made for these, whatever their p and y
//   static void row_products(const RowProducts<T>&)
// Where they are missing, or do not fit, ops go layer by layer.
//
// `early` says that all operands but x, p, y and g are complete before the work that made x began: a kernel may then read
// them while that work still goes on.

#include <concepts>

#include <mole/core/shape.hpp>

namespace mole {

/// How many layers at most.
inline constexpr int most_row_layers = 4;

/// p_i = g_i * (x A_i^T), each rank by the weight of its expert (eq. 12 in rank space), for i < count.
///   x [rows, d_in]; p [rows, ranks]: the p_i side by side, `ranks` in all
template <class T>
struct GatedRanks {
  struct Layer {
    const T *A, *g;       ///< [ranks, d_in], [rows / rows_per_gate, experts]
    const Index* column;  ///< [ranks]: a rank's expert
    Index ranks, experts;
  };
  const T* x;
  T* p;
  Index rows, d_in, ranks, rows_per_gate;
  int count = 1;
  bool early = false;
  Layer layers[most_row_layers] = {};
};

/// y_i = x W_i^T + p_i Q_i^T + c_i for i < count, rounded once; added to y_i where `add` is set.
///   x [rows, d_in]; p: the p_i side by side, in rows of `stride` numbers; y_i [rows, d_out]; no y_i overlaps anything else
template <class T>
struct RowProducts {
  struct Layer {
    const T *W, *Q, *c;  ///< [d_out, d_in] or null: without it; [d_out, ranks]; [d_out] or null
    T* y;
    Index d_out, ranks;  ///< no ranks: without p_i and Q_i
  };
  const T *x, *p;
  Index rows, d_in, stride;
  int count = 1;
  bool add = false, early = false;
  Layer layers[most_row_layers] = {};
};

namespace detail {

/// Whether the backend has the kernels for T.
template <class T, class B>
constexpr bool has_row_layers = requires(const GatedRanks<T>& ranks, const RowProducts<T>& products) {
  { B::gated_ranks(ranks) } -> std::same_as<bool>;
  { B::row_products_fit(products) } -> std::same_as<bool>;
  B::row_products(products);
};

}  // namespace detail

}  // namespace mole
