#pragma once
// T5's norm with the roundings of Transformers, whose float64 models still take the mean square in float32.
// Only a comparison with its numbers beyond seven digits needs it.

#include <cmath>

#include <mole/ops/arithmetic.hpp>

namespace mole {

namespace detail {

/// The sum of the squares of float32(x), in float32 and in the order of PyTorch on a CPU: four vectors of
/// eight lanes side by side, every 16 rows of them added up into the next level of a cascade.
template <class T>
MOLE_HD float float32_sum_of_squares(const T* x, Index n) {
  constexpr Index lanes = 8, vectors = 4, width = lanes * vectors, step = 16;
  constexpr int levels = 4;
  // The product must be rounded before it is added. On the host it goes through double, which holds it
  // exactly; nvcc would see through that and fuse the two.
  auto squared = [x](Index j) {
#if defined(__CUDA_ARCH__)
    return __fmul_rn(static_cast<float>(x[j]), static_cast<float>(x[j]));
#else
    const auto value = static_cast<double>(static_cast<float>(x[j]));
    return static_cast<float>(value * value);
#endif
  };
  float partial[levels][width] = {};
  const Index rows = n / width;
  for (Index i = 0; i < rows;) {
    for (Index k = 0; k < width; ++k) partial[0][k] += squared(i * width + k);
    if (++i % step != 0) continue;
    for (Index level = 1, block = step; level < levels; ++level) {
      for (Index k = 0; k < width; ++k) {
        partial[level][k] += partial[level - 1][k];
        partial[level - 1][k] = 0;
      }
      block *= step;
      if (i % block != 0) break;
    }
  }
  for (int level = 1; level < levels; ++level)
    for (Index k = 0; k < width; ++k) partial[0][k] += partial[level][k];
  Index at = rows * width;
  for (; at + lanes <= n; at += lanes)
    for (Index k = 0; k < lanes; ++k) partial[0][k] += squared(at + k);
  for (Index v = 1; v < vectors; ++v)
    for (Index k = 0; k < lanes; ++k) partial[0][k] += partial[0][v * lanes + k];
  float sum = 0;
  for (; at < n; ++at) sum += squared(at);
  for (Index k = 0; k < lanes; ++k) sum += partial[0][k];
  return sum;
}

/// y = x r, r = 1 / sqrt(mean(x^2) + eps) in float32.
template <class T>
struct RoundedNormRow {
  using C = Compute<T>;
  const T* x;
  T* y;
  float* inverse;
  Index n;
  float eps;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T* const from = x + row.index() * n;
    T* const to = y + row.index() * n;
    const float r = 1.0f / std::sqrt(float32_sum_of_squares(from, n) / static_cast<float>(n) + eps);
    float* const kept = inverse + row.index();
    row.each(1, [=](Index) { *kept = r; });
    row.each(n, [=](Index j) { to[j] = from[j] * static_cast<C>(r); });
  }
};

/// dx = G r - r^3 <G, x> x / n, the second term in float32.
template <class T>
struct RoundedNormPullbackRow {
  using C = Compute<T>;
  const T *x, *g;
  const float* inverse;
  T* dx;
  Index n;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T *const from = x + row.index() * n, *const G = g + row.index() * n;
    T* const to = dx + row.index() * n;
    const float r = inverse[row.index()];
    const auto dr = static_cast<float>(row.sum(n, [=](Index j) { return G[j] * from[j]; }));
    const float dmean = -0.5f * dr * (r * r * r) / static_cast<float>(n);
    row.each(n, [=](Index j) {
      to[j] = G[j] * static_cast<C>(r) + static_cast<C>(dmean * (2.0f * static_cast<float>(from[j])));
    });
  }
};

}  // namespace detail

/// rms_norm with its mean square and root in float32, whatever T.  y = w x r, r = 1 / sqrt(mean(x^2) + eps)
/// x, y [.., n], w [n].    Pullback of G, H = w G: dx = H r - r^3 <H, x> x / n, dw = sum over rows of G x r.
/// Throws ShapeError when w does not fit.
template <class T, class B>
Tensor<T, B> rounded_rms_norm(const Tensor<T, B>& x, const Tensor<T, B>& w, Compute<T> eps) {
  MOLE_CHECK_SHAPE(x.rank() >= 1 && w.shape() == Shape{x.size(-1)},
                   "rounded_rms_norm: expected x [.., n] and w [n], got", x.shape(), "and", w.shape());
  const Index n = x.size(-1), rows = x.shape().size(0, x.rank() - 1);
  const auto y = Tensor<T, B>::empty(x.shape());
  const auto inverse = Tensor<float, B>::empty({rows});
  B::for_rows(rows, n,
              detail::RoundedNormRow<T>{x.data(), y.data(), inverse.data(), n, static_cast<float>(eps)});
  const auto scaled = record({x}, y, [x = x.detach(), inverse, n, rows](const auto& G) {
    const auto dx = Tensor<T, B>::empty(x.shape());
    B::for_rows(rows, n, detail::RoundedNormPullbackRow<T>{x.data(), G.data(), inverse.data(), dx.data(), n});
    return dx;
  });
  return mul(scaled, w);
}

}  // namespace mole
