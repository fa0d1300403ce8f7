#pragma once
// The processor with the kernels that a backend may offer for gated mixtures, each of a few lines; and layers to try them on.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include <mole/autodiff/backward.hpp>
#include <mole/core/kernels/row_layers.hpp>
#include <mole/experts/ops/gated_mixture.hpp>
#include <mole/ops/activation.hpp>

#include "testing.hpp"

namespace with_kernels {

using namespace mole;
using namespace mole::testing;

/// The processor with the kernels of core/kernels/gate.hpp, gate_product.hpp, two_products.hpp and row_layers.hpp, by their
/// formulas.
struct WithKernels : Cpu {
  static constexpr const char* name = "cpu with kernels";
  static constexpr Index chunk_rows = 0;  // hides the processor's own way
  static inline int forward_calls = 0, backward_calls = 0, product_calls = 0;
  static inline int gate_product_calls = 0, row_product_calls = 0;
  static inline int late_calls = 0;  ///< of products: those whose B0 is not older than A1
  static inline bool takes_products = false, takes_gate_products = false;

  template <class T>
  static bool two_products_fit(const TwoProducts<T>&) {
    return takes_products;
  }

  template <class T>
  static void two_products(const TwoProducts<T>& a) {
    ++product_calls;
    if (!a.early) ++late_calls;
    const auto of_b = [&](const T* b, Index inner, Index i, Index k, Index column) {
      return b[i * inner * a.columns + (a.across ? k * a.columns + column : column * inner + k)];
    };
    for (Index i = 0; i < a.count; ++i)
      for (Index row = 0; row < a.rows; ++row)
        for (Index column = 0; column < a.columns; ++column) {
          T total = a.c[i] ? a.c[i][column] : T(0);
          for (Index k = 0; k < a.inner0; ++k)
            total += a.a0[row * a.inner0 + k] * of_b(a.b0, a.inner0, i, k, column);
          for (Index k = 0; k < a.inner1; ++k)
            total += a.a1[row * a.stride1 + i * a.inner1 + k] * of_b(a.b1, a.inner1, i, k, column);
          T& d = a.d[(i * a.rows + row) * a.columns + column];
          d = a.add ? d + total : total;
        }
  }

  template <class T>
  static bool gated_ranks(const GatedRanks<T>& a) {
    Index first = 0;
    for (int i = 0; takes_products && i < a.count; first += a.layers[i++].ranks) {
      const auto& layer = a.layers[i];
      for (Index row = 0; row < a.rows; ++row)
        for (Index rank = 0; rank < layer.ranks; ++rank) {
          T h = 0;
          for (Index k = 0; k < a.d_in; ++k) h += a.x[row * a.d_in + k] * layer.A[rank * a.d_in + k];
          const T* const g = layer.g + row / a.rows_per_gate * layer.experts;
          a.p[row * a.ranks + first + rank] = h * g[layer.column[rank]];
        }
    }
    return takes_products;
  }

  template <class T>
  static bool row_products_fit(const RowProducts<T>&) {
    return takes_products;
  }

  template <class T>
  static void row_products(const RowProducts<T>& a) {
    ++row_product_calls;
    Index first = 0;
    for (int i = 0; i < a.count; first += a.layers[i++].ranks) {
      const auto& layer = a.layers[i];
      for (Index row = 0; row < a.rows; ++row)
        for (Index column = 0; column < layer.d_out; ++column) {
          T total = layer.c ? layer.c[column] : T(0);
          for (Index k = 0; layer.W && k < a.d_in; ++k)
            total += a.x[row * a.d_in + k] * layer.W[column * a.d_in + k];
          for (Index k = 0; k < layer.ranks; ++k)
            total += a.p[row * a.stride + first + k] * layer.Q[column * layer.ranks + k];
          T& y = layer.y[row * layer.d_out + column];
          y = a.add ? y + total : total;
        }
    }
  }

  template <class T>
  static bool gate_fits(Index, Index experts) {
    return experts <= 4;
  }

  template <class T>
  static bool gate_forward(const GateForward<T>& a) {
    ++forward_calls;
    for (int i = 0; i < a.gates; ++i)
      for (Index row = 0; row < a.rows; ++row) {
        const auto& one = a.gate[i];
        const T* const v = a.v + row * a.stride + i * a.features;
        T* const g = a.g + (i * a.rows + row) * a.experts;
        T squares = 0, total = 0;
        for (Index j = 0; j < a.features; ++j) squares += v[j] * v[j];
        const T size = std::max(std::sqrt(squares), a.eps);
        a.norm[i * a.rows + row] = size;
        for (Index e = 0; e < a.experts; ++e) {
          T z = 0;
          for (Index j = 0; j < a.features; ++j) z += v[j] * one.F[j * a.experts + e];
          z = z / size + (one.bias ? one.bias[e] : T(0));
          g[e] = one.keep && one.keep[e] == 0 ? T(0) : std::exp(z / std::exp(*one.log_tau));
          total += g[e];
        }
        for (Index e = 0; e < a.experts; ++e) g[e] /= total;
        for (Index j = 0; a.p && j < a.features; ++j)
          a.p[row * a.stride + i * a.features + j] = v[j] * g[one.expert[j]];
      }
    return true;
  }

  template <class T, class F>
  static bool gate_backward(const GateBackward<T>& a, const F& beside) {
    ++backward_calls;
    for (int i = 0; i < a.gates; ++i) {
      const auto& one = a.gate[i];
      if (one.dF && !one.add_dF) std::fill(one.dF, one.dF + a.features * a.experts, T(0));
      if (one.dlog_tau) *one.dlog_tau = 0;
      if (one.dbias) std::fill(one.dbias, one.dbias + a.experts, T(0));
      for (Index row = 0; row < a.rows; ++row) {
        const Index at = row * a.stride + i * a.features;
        const T* const g = a.g + (i * a.rows + row) * a.experts;
        const T size = a.norm[i * a.rows + row], tau = std::exp(*one.log_tau);
        std::vector<T> sent(static_cast<std::size_t>(a.experts)), dp;
        T dot = 0, along = 0;
        for (Index j = 0; j < a.features; ++j) dp.push_back(a.dp ? a.dp[at + j] : T(0));
        for (Index e = 0; e < a.experts; ++e) {
          T& s = sent[static_cast<std::size_t>(e)];
          s = one.dg ? one.dg[row * a.experts + e] : T(0);
          for (Index j = 0; a.dp && j < a.features; ++j)
            if (one.expert[j] == e) s += a.v[at + j] * dp[static_cast<std::size_t>(j)];
          dot += g[e] * s;
        }
        for (Index e = 0; e < a.experts; ++e) {
          T& s = sent[static_cast<std::size_t>(e)];
          s = g[e] * (s - dot);
          if (g[e] > 0) along += s * std::log(g[e]);
        }
        if (one.dlog_tau) *one.dlog_tau -= along;
        for (Index e = 0; e < a.experts; ++e) {
          const T dz = sent[static_cast<std::size_t>(e)] / tau;
          if (one.dbias) one.dbias[e] += dz;
          if (one.bias) along -= dz * one.bias[e];
        }
        for (Index j = 0; j < a.features; ++j) {
          T dv = -along * a.v[at + j] / (size * size);
          if (a.dp) dv += g[one.expert[j]] * dp[static_cast<std::size_t>(j)];
          for (Index e = 0; e < a.experts; ++e) {
            const T slope = sent[static_cast<std::size_t>(e)] / tau / size;
            dv += slope * one.F[j * a.experts + e];
            if (one.dF) one.dF[j * a.experts + e] += a.v[at + j] * slope;
          }
          if (a.dv) a.dv[at + j] = dv + (a.add_dv ? a.dv[at + j] : T(0));
        }
      }
    }
    beside();
    return true;
  }

  template <class T>
  static bool gate_product_fits(const GateProduct<T>&) {
    return takes_gate_products;
  }

  template <class T>
  static void gate_product_forward(const GateForward<T>& a, const GateProduct<T>& product) {
    ++gate_product_calls;
    multiply(product, product.made);
    gate_forward(a);
  }

  template <class T, class F>
  static void gate_product_backward(const GateBackward<T>& a, const GateProduct<T>& product,
                                    const F& beside) {
    ++gate_product_calls;
    std::vector<T> dp(static_cast<std::size_t>(product.rows * product.stride));
    multiply(product, dp.data());
    auto gates = a;
    gates.dp = dp.data();
    gate_backward(gates, beside);
  }

 private:
  template <class T>
  static void multiply(const GateProduct<T>& p, T* made) {
    for (int i = 0; i < p.gates; ++i)
      for (Index row = 0; row < p.rows; ++row)
        for (Index j = 0; j < p.features; ++j) {
          const T* const a = p.a[p.back ? i : 0] + row * p.inner;
          const T* const b = p.b + i * p.inner * p.features;
          T& to = made[row * p.stride + i * p.features + j];
          to = 0;
          for (Index k = 0; k < p.inner; ++k) to += a[k] * b[p.back ? k * p.features + j : j * p.inner + k];
        }
  }
};

static_assert(detail::has_gate_kernels<double, WithKernels> && !detail::has_gate_kernels<double, Cpu>);
static_assert(detail::has_gate_products<double, WithKernels> && !detail::has_gate_products<double, Cpu>);

inline constexpr Index layers_in_all = 3, S = 2, L = 5, d_in = 4, d_out = 7, R = 6, N = 4;

/// Layers of these numbers of experts, with adjacent A, Q and, where asked for, W.
template <class B>
std::vector<GatedLayer<double, B>> make_layers(const std::vector<Index>& experts, bool biased,
                                               bool adjacent_W, bool scaled = false) {
  using D = Tensor<double, B>;
  std::vector<GatedLayer<double, B>> layers;
  std::vector<D> A, Q, W;
  for (std::size_t i = 0; i < experts.size(); ++i) {
    A.push_back(noise<double, B>({R, d_in}, 10 + i));
    Q.push_back(noise<double, B>({d_out, R}, 20 + i));
    W.push_back(noise<double, B>({d_out, d_in}, 30 + i));
  }
  A = copy_adjacent(A);
  Q = copy_adjacent(Q);
  if (adjacent_W) W = copy_adjacent(W);
  for (std::size_t k = 0; k < experts.size(); ++k) {
    const Index n = experts[k];
    std::vector<Index> of;
    for (Index j = 0; j < R; ++j) of.push_back(j * n / R);
    layers.push_back({W[k], biased ? noise<double, B>({d_out}, 40 + k) : D(), A[k], Q[k],
                      Tensor<Index, B>::from({R}, of), noise<double, B>({R, n}, 50 + k).set_requires_grad(),
                      D::scalar(0.1 * static_cast<double>(k)).set_requires_grad(),
                      k == 1 ? D::from({n},
                                       [&] {
                                         std::vector<double> keep(static_cast<std::size_t>(n), 1.0);
                                         keep.back() = 0;
                                         return keep;
                                       }())
                             : D()});
    // One has a factor for each feature, one a common one, one none.
    if (scaled && k != 1)
      layers.back().scale = {noise<double, B>({R}, 100 + k),
                             k == 0 ? noise<double, B>({R}, 110) + 2.0 : D::scalar(1.5)};
  }
  return layers;
}

/// What is read of each layer, in the order in which it is added up.
struct Reading {
  std::vector<std::size_t> y, g;
  bool glued = false;  ///< the first two y go into one glu, whose gradients are adjacent
};

/// y and g of each layer, then the gradients of x and of each F and log_tau.
template <class B>
std::vector<std::vector<double>> run(const std::vector<GatedLayer<double, B>>& layers,
                                     const Reading& reading) {
  auto x = noise<double, B>({S, L, d_in}, 1);
  x.set_requires_grad();
  const auto made = gated_mixtures(x, layers);
  auto seen = Tensor<double, B>::scalar(0);
  std::vector<std::vector<double>> found;
  for (const std::size_t i : reading.y)
    seen = seen + sum(made[i].y * noise<double, B>({S, L, d_out}, 60 + i));
  if (reading.glued)
    seen = seen + sum(glu(made[0].y, made[1].y, functor::GeluTanh{}) * noise<double, B>({S, L, d_out}, 80));
  for (const std::size_t i : reading.g)
    seen = seen + sum(made[i].g * noise<double, B>(made[i].g.shape(), 70 + i));
  for (const auto& [y, g] : made) {
    found.push_back(doubles(y));
    found.push_back(doubles(g));
  }
  backward(seen);
  const auto take = [&](const Tensor<double, B>& leaf) {
    found.push_back(leaf.grad().defined() ? doubles(leaf.grad())
                                          : std::vector<double>(static_cast<std::size_t>(leaf.size())));
  };
  take(x);
  for (const auto& layer : layers) {
    take(layer.F);
    take(layer.log_tau);
  }
  return found;
}

inline const std::vector<Reading> readings{{{0, 1, 2}, {0, 1, 2}, false},
                                           {{1}, {0}, false},
                                           {{2, 0}, {1}, false},
                                           {{}, {1}, false},
                                           {{0}, {}, false},
                                           {{}, {}, true},
                                           {{2}, {0, 1, 2}, true},
                                           {{0, 1}, {2}, true}};

inline void check_equal(const std::vector<std::vector<double>>& found,
                        const std::vector<std::vector<double>>& expected) {
  REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    CAPTURE(i);
    CHECK(worst_error(found[i], expected[i]) <= 1e-12);
  }
}

}  // namespace with_kernels
