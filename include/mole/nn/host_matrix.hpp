#pragma once
// Small matrices of doubles on the host, row-major: the products and the QR that adapters are prepared with.
// Plain loops, not Eigen's expressions: those cost each program that holds a LoRA seconds to compile.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include <mole/core/omp.hpp>
#include <mole/core/scalar.hpp>
#include <mole/core/shape.hpp>

// Without OpenMP all runs in one thread, and its pragmas are nothing to warn of.
#ifndef _OPENMP
#  pragma GCC diagnostic push
#  pragma GCC diagnostic ignored "-Wunknown-pragmas"
#endif

namespace mole {

namespace detail {

/// sum_i a_i b_i, in eight partial sums: vector registers hold them, and every build adds in the same order.
[[gnu::noinline]] inline double dot(const double* a, const double* b, Index n) {
  constexpr Index lanes = 8;
  double partial[lanes] = {};
  Index i = 0;
  for (; i + lanes <= n; i += lanes) {
    MOLE_OMP("omp simd")
    for (Index k = 0; k < lanes; ++k) partial[k] += a[i + k] * b[i + k];
  }
  for (Index half = lanes / 2; half > 0; half /= 2)
    for (Index k = 0; k < half; ++k) partial[k] += partial[k + half];
  double sum = partial[0];
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

/// factor a b.  a [m, k], b [k, n], result [m, n]
inline std::vector<double> host_product(double factor, const std::vector<double>& a,
                                        const std::vector<double>& b, Index m, Index k, Index n) {
  constexpr Index chunk = 256;
  std::vector<double> c(static_cast<std::size_t>(m * n));
  MOLE_OMP("omp parallel for schedule(static) if (m * k * n > 1000000)")
  for (Index i = 0; i < m; ++i)
    for (Index first = 0; first < n; first += chunk) {
      const Index width = std::min(chunk, n - first);
      double* const to = c.data() + i * n + first;
      const double *const left = a.data() + i * k, *right = b.data() + first;
      Index l = 0;
      // Four rows of b at a time, in the order of one at a time: c is read and written once for four.
      for (; l + 4 <= k; l += 4, right += 4 * n) {
        MOLE_OMP("omp simd")
        for (Index j = 0; j < width; ++j)
          to[j] = to[j] + left[l] * right[j] + left[l + 1] * right[n + j] + left[l + 2] * right[2 * n + j] +
                  left[l + 3] * right[3 * n + j];
      }
      for (; l < k; ++l, right += n) {
        MOLE_OMP("omp simd")
        for (Index j = 0; j < width; ++j) to[j] += left[l] * right[j];
      }
      MOLE_OMP("omp simd")
      for (Index j = 0; j < width; ++j) to[j] *= factor;
    }
  return c;
}

/// a^T.  a [m, n], result [n, m]
inline std::vector<double> host_transpose(const std::vector<double>& a, Index m, Index n) {
  std::vector<double> t(a.size());
  for (Index i = 0; i < m; ++i)
    for (Index j = 0; j < n; ++j)
      t[static_cast<std::size_t>(j * m + i)] = a[static_cast<std::size_t>(i * n + j)];
  return t;
}

/// H = 1 - tau v v^T, v = (1, x_1, ..), which takes x to (value, 0, ..). x_1, .. become those of v.
struct Reflection {
  double value, tau;
};

inline Reflection reflect(double* x, Index n) {
  double largest = 0;
  for (Index i = 0; i < n; ++i) largest = std::max(largest, std::abs(x[i]));
  // What is left of a column may be so small that its squares are zero.
  int exponent = 0;
  if (largest > 0 && largest < 0x1p-300) {
    exponent = -std::ilogb(largest);
    for (Index i = 0; i < n; ++i) x[i] = std::ldexp(x[i], exponent);
  }
  const double first = x[0], rest = dot(x + 1, x + 1, n - 1);
  if (rest == 0) return {std::ldexp(first, -exponent), 0};
  const double norm = std::sqrt(first * first + rest);
  const double value = first > 0 ? -norm : norm;
  for (Index i = 1; i < n; ++i) x[i] /= first - value;
  return {std::ldexp(value, -exponent), (value - first) / value};
}

/// y = H y for the v that reflect() left in x.
[[gnu::noinline]] inline void apply_reflection(const double* x, double tau, double* y, Index n) {
  if (tau == 0) return;
  const double along = tau * (y[0] + dot(x + 1, y + 1, n - 1));
  y[0] -= along;
  MOLE_OMP("omp simd")
  for (Index i = 1; i < n; ++i) y[i] -= along * x[i];
}

}  // namespace detail

/// B = Q R with k = min(m, n).
struct ThinQr {
  std::vector<double> Q;  ///< [m, k], orthonormal columns whatever the rank of B
  std::vector<double> R;  ///< [k, n], zero below the diagonal, which has no negative element
};

/// The thin QR of B [m, n] by Householder's reflections. Columns of B that are zero, alike or of very
/// different sizes are fine; numbers that are not finite make numbers that are not.
/// The caller makes sure that B has m n elements.
inline ThinQr thin_qr(const std::vector<double>& B, Index m, Index n) {
  const Index k = std::min(m, n);
  const auto at = [](Index i) { return static_cast<std::size_t>(i); };
  // Column by column, each in one piece. A power of two keeps the sums of huge and tiny columns in range. It
  // rounds nothing, and Q does not depend on it.
  auto columns = detail::host_transpose(B, m, n);
  std::vector<int> exponent(at(n));
  for (Index j = 0; j < n; ++j) {
    double* const column = columns.data() + j * m;
    double largest = 0;
    for (Index i = 0; i < m; ++i) largest = std::max(largest, std::abs(column[i]));
    if ((largest >= 0x1p-300 && largest <= 0x1p300) || largest == 0 || !is_finite(largest)) continue;
    exponent[at(j)] = std::ilogb(largest);
    for (Index i = 0; i < m; ++i) column[i] = std::ldexp(column[i], -exponent[at(j)]);
  }

  std::vector<double> diagonal(at(k)), tau(at(k));
  for (Index j = 0; j < k; ++j) {
    double* const x = columns.data() + j * m + j;
    const auto reflection = detail::reflect(x, m - j);
    diagonal[at(j)] = reflection.value;
    tau[at(j)] = reflection.tau;
    for (Index c = j + 1; c < n; ++c)
      detail::apply_reflection(x, tau[at(j)], columns.data() + c * m + j, m - j);
  }

  // Q = H_0 H_1 .. applied to the first k columns of 1.
  std::vector<double> q(at(k * m));
  for (Index c = 0; c < k; ++c) q[at(c * m + c)] = 1;
  for (Index j = k; j-- > 0;)
    for (Index c = j; c < k; ++c)
      detail::apply_reflection(columns.data() + j * m + j, tau[at(j)], q.data() + c * m + j, m - j);

  ThinQr qr{std::vector<double>(at(m * k)), std::vector<double>(at(k * n))};
  for (Index i = 0; i < k; ++i) {
    const double sign = diagonal[at(i)] < 0 ? -1 : 1;
    for (Index row = 0; row < m; ++row) qr.Q[at(row * k + i)] = sign * q[at(i * m + row)];
    for (Index j = i; j < n; ++j)
      qr.R[at(i * n + j)] =
          sign * std::ldexp(j == i ? diagonal[at(i)] : columns[at(j * m + i)], exponent[at(j)]);
  }
  return qr;
}

/// Puts L [n, n], lower triangular, in the place of K = L L^T, symmetric and without negative eigenvalues, and what takes
/// L y to y into `inverse`. A column of L is zero where what is left of K's diagonal is not more than `least` of what it
/// was, and there y is zero. Returns the least that is left of any: the closer to 0, the more do roundings of K count.
inline double cholesky(std::vector<double>& K, Index n, double least, std::vector<double>& inverse) {
  inverse.assign(K.size(), 0);
  double least_left = 1;
  for (Index j = 0; j < n; ++j) {
    double *const row = K.data() + j * n, *const to = inverse.data() + j * n;
    const double left = row[j] - detail::dot(row, row, j),
                 pivot = left > least * row[j] ? std::sqrt(left) : 0;
    least_left = std::min(least_left, pivot > 0 ? left / row[j] : 0);
    row[j] = pivot;
    for (Index i = j + 1; i < n; ++i) {
      double* const below = K.data() + i * n;
      below[j] = pivot > 0 ? (below[j] - detail::dot(below, row, j)) / pivot : 0;
      row[i] = 0;
    }
    if (pivot == 0) continue;
    // Row j of the inverse, from the rows above it.
    for (Index i = 0; i < j; ++i)
      for (Index k = 0; k <= i; ++k) to[k] -= row[i] * inverse[static_cast<std::size_t>(i * n + k)];
    for (Index k = 0; k < j; ++k) to[k] /= pivot;
    to[j] = 1 / pivot;
  }
  return least_left;
}

}  // namespace mole

#ifndef _OPENMP
#  pragma GCC diagnostic pop
#endif
