#pragma once
// Several layers that read the same few rows x, as a decoder's steps have them, with experts whose weights are known: off
// the tape, in one launch for the ranks of all experts and one for all products.
//
//   p_i = g_i * (x A_i^T),  y_i = x W_i^T + c_i + p_i Q_i^T      eq. 12-13 in rank space, as mixture() has them

#include <algorithm>
#include <cstddef>
#include <vector>

#include <mole/core/kernels/row_layers.hpp>
#include <mole/experts/ops/mixture.hpp>

namespace mole {

/// A layer and, where A is defined, its experts and their weights.
template <class T, class B>
struct KnownMixture {
  FrozenWeight<T, B> W = {};     ///< [d_out, d_in]
  Tensor<T, B> c = {};           ///< [d_out] or undefined
  Tensor<T, B> A = {}, Q = {};   ///< [R, d_in], [d_out, R]; undefined without experts
  Tensor<T, B> g = {};           ///< [S, N] for sequence gates, [S, L, N] for token gates
  Tensor<Index, B> column = {};  ///< [R]: the gate's column of each rank

  bool has_experts() const { return A.defined(); }
  Index ranks() const { return has_experts() ? A.size(0) : 0; }
};

namespace detail {

/// Whether the tape wants to know of an operation on these.
template <class T, class B>
bool is_on_tape(const Tensor<T, B>& x, const std::vector<KnownMixture<T, B>>& layers) {
  const auto wanted = [](const Tensor<T, B>& t) { return t.defined() && t.requires_grad(); };
  return recording() && (wanted(x) || std::ranges::any_of(layers, [&](const auto& layer) {
                           return wanted(layer.g) || wanted(layer.W.dense()) || wanted(layer.c);
                         }));
}

/// Throws ShapeError unless the layer fits x.
template <class T, class B>
void check_known(const Tensor<T, B>& x, const KnownMixture<T, B>& layer) {
  const auto& W = layer.W;
  const auto& c = layer.c;
  if (layer.has_experts())
    return check_mixture("mixture", x, W, c, x.shape().with(-1, layer.ranks()), layer.g.shape(), layer.Q,
                         layer.column);
  MOLE_CHECK_SHAPE(W.d_in() == x.size(-1) && (!c.defined() || c.shape() == Shape{W.d_out()}),
                   "mixture: expected W [d_out, d_in] and c [d_out] for x", x.shape(), "got", W.shape(),
                   "and", c.defined() ? c.shape() : Shape{});
}

/// p of all layers side by side, [rows, their ranks]; undefined where the backend's kernel does not take these.
template <class T, class B>
Tensor<T, B> gated_ranks_of(const Tensor<T, B>& x, const std::vector<KnownMixture<T, B>>& layers, Index ranks,
                            bool early) {
  const Index rows = x.size(0) * x.size(1);
  const auto p = Tensor<T, B>::empty({rows, ranks});
  GatedRanks<T> all{.x = x.data(),
                    .p = p.data(),
                    .rows = rows,
                    .d_in = x.size(2),
                    .ranks = ranks,
                    .rows_per_gate = 0,
                    .count = 0,
                    .early = early};
  for (const auto& layer : layers) {
    auto& own = all.layers[all.count++];
    if (!layer.has_experts()) continue;
    const Index per_gate = layer.g.rank() == 3 ? 1 : x.size(1);
    if (all.rows_per_gate != 0 && all.rows_per_gate != per_gate) return {};
    all.rows_per_gate = per_gate;
    own = {layer.A.data(), layer.g.data(), layer.column.data(), layer.ranks(), layer.g.size(-1)};
  }
  return B::gated_ranks(all) ? p : Tensor<T, B>();
}

/// y_i = x W_i^T of packed W_i by one launch; false, and nothing is done, where the backend's kernel does not take these.
template <class T, class B>
bool by_packed_product(const Tensor<T, B>& x, const std::vector<KnownMixture<T, B>>& layers,
                       const std::vector<Tensor<T, B>>& y) {
  if constexpr (has_packed_kernels<T, B>) {
    PackedProduct<T> all{.x = x.data(), .rows = x.size(0) * x.size(1), .count = 0};
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const auto W = layers[i].W.packed();
      if (!W) return false;
      all.layers[all.count++] = {*W, y[i].data()};
    }
    return B::packed_product(all);
  }
  return false;
}

/// The outputs of layers without experts and bias by that launch; nothing where it does not take these.
template <class T, class B>
std::vector<Tensor<T, B>> packed_outputs(const Tensor<T, B>& x,
                                         const std::vector<KnownMixture<T, B>>& layers) {
  std::vector<Tensor<T, B>> y;
  for (const auto& layer : layers) {
    if (layer.c.defined()) return {};
    y.push_back(Tensor<T, B>::empty(x.shape().with(-1, layer.W.d_out())));
  }
  return by_packed_product(x, layers, y) ? y : std::vector<Tensor<T, B>>();
}

}  // namespace detail

/// y_i of each layer, off the tape, by the kernels of core/kernels/row_layers.hpp; nothing where the backend lacks them or
/// does not take these, or where the tape wants to know of them.
/// x [S, L, d_in], y_i [S, L, d_out]. early: the layers are older than the work that made x.    Throws ShapeError.
template <class T, class B>
std::vector<Tensor<T, B>> mixtures_off_tape(const Tensor<T, B>& x,
                                            const std::vector<KnownMixture<T, B>>& layers,
                                            bool early = false) {
  if constexpr (detail::has_row_layers<T, B>) {
    if (layers.empty() || layers.size() > static_cast<std::size_t>(most_row_layers) || x.rank() != 3 ||
        x.size() == 0 || detail::is_on_tape(x, layers))
      return {};
    const Index rows = x.size(0) * x.size(1);
    Index ranks = 0;
    bool dense = true;
    for (const auto& layer : layers) {
      detail::check_known(x, layer);
      ranks += layer.ranks();
      dense = dense && layer.W.dense().defined();
    }
    if (ranks == 0 && !dense) return detail::packed_outputs(x, layers);
    RowProducts<T> products{.x = x.data(),
                            .p = nullptr,
                            .rows = rows,
                            .d_in = x.size(2),
                            .stride = ranks,
                            .count = 0,
                            .add = !dense,
                            .early = dense && (early || ranks > 0)};
    for (const auto& layer : layers)
      products.layers[products.count++] = {.W = dense ? layer.W.dense().data() : nullptr,
                                           .Q = layer.has_experts() ? layer.Q.data() : nullptr,
                                           .c = layer.c.defined() ? layer.c.data() : nullptr,
                                           .y = nullptr,
                                           .d_out = layer.W.d_out(),
                                           .ranks = layer.ranks()};
    if (!B::row_products_fit(products)) return {};
    Tensor<T, B> p;
    if (ranks > 0) {
      p = detail::gated_ranks_of(x, layers, ranks, early);
      if (!p.defined()) return {};
      products.p = p.data();
    }
    std::vector<Tensor<T, B>> result;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      result.push_back(Tensor<T, B>::empty(x.shape().with(-1, layers[i].W.d_out())));
      products.layers[i].y = result.back().data();
    }
    // The products with Q are then added.
    if (!dense && !detail::by_packed_product(x, layers, result))
      for (std::size_t i = 0; i < layers.size(); ++i)
        layers[i].W.forward(rows, x.data(), false, result[i].data());
    B::row_products(products);
    return result;
  }
  return {};
}

}  // namespace mole
