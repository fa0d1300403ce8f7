#pragma once
// Fine-tuned linear maps made one by least squares: Mix-of-Show's gradient fusion in closed form (Gu et al.
// 2023, arXiv 2305.18292) and Custom Diffusion's merge (Kumari et al. 2023, arXiv 2212.04488). On the host,
// in double; matrices are row-major.

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <limits>
#include <type_traits>
#include <vector>

#include <mole/compose/host_svd.hpp>
#include <mole/core/error.hpp>
#include <mole/core/scalar.hpp>
#include <mole/nn/host_matrix.hpp>

namespace mole {

/// A matrix of doubles.
struct HostMatrix {
  Index rows = 0, columns = 0;
  std::vector<double> values;  ///< [rows, columns]
};

/// What a fine-tuned map is, and where it is to be kept: its change of W and the inputs that its concept has
/// there.
struct FusedConcept {
  HostMatrix delta;   ///< [d_out, d_in]
  HostMatrix inputs;  ///< [n, d_in], a feature vector a row
};

/// The same, where the inputs X are many: their products suffice.
struct FusedProducts {
  HostMatrix delta;     ///< [d_out, d_in]
  HostMatrix products;  ///< X^T X [d_in, d_in]
};

namespace detail {

inline void check_matrix(const char* what, const HostMatrix& m, Index columns) {
  MOLE_CHECK_SHAPE(
      m.rows >= 0 && m.columns == columns && m.values.size() == static_cast<std::size_t>(m.rows * m.columns),
      what, ": expected a matrix of", columns, "columns, got [", m.rows, ",", m.columns, "] with",
      m.values.size(), "numbers");
  for (const double value : m.values) MOLE_CHECK_ARG(is_finite(value), what, ": a matrix holds", value);
}

/// The pseudo-inverse of a symmetric matrix [n, n] without negative eigenvalues. Singular values within rounding of
/// zero count as zero. (A template, like what uses it, so that only programs which call it compile Eigen's SVD.)
template <class Real>
std::vector<Real> pseudo_inverse(const std::vector<Real>& A, Index n) {
  const auto svd = host_svd(A, n, n);
  const double least = svd.S.front() * static_cast<double>(n) * std::numeric_limits<double>::epsilon() * 4;
  std::vector<double> scaled = svd.V;
  for (Index i = 0; i < n; ++i)
    for (Index k = 0; k < n; ++k) {
      const double s = svd.S[static_cast<std::size_t>(k)];
      scaled[static_cast<std::size_t>(i * n + k)] *= s > least ? 1 / s : 0;
    }
  return host_product(1, scaled, host_transpose(svd.U, n, n), n, n, n);
}

/// X^T X.  X [n, d], result [d, d]
inline std::vector<double> gram(const HostMatrix& X) {
  return host_product(1, host_transpose(X.values, X.rows, X.columns), X.values, X.columns, X.rows, X.columns);
}

}  // namespace detail

/// Gradient fusion: the W nearest W0 among those that minimise sum_i |W X_i^T - (W0 + delta_i) X_i^T|^2,
///   W = W0 + (sum_i delta_i C_i) (sum_i C_i)^+,   C_i = X_i^T X_i
/// which is the limit of Mix-of-Show's L-BFGS from W0. Biases are not changed: inputs and deltas alone count.
/// W0 [d_out, d_in]; the result alike.
/// Throws ShapeError for matrices that do not fit, ArgumentError for none or numbers that are not finite.
template <std::same_as<HostMatrix> Matrix>
Matrix fuse_products(const Matrix& W0, const std::vector<FusedProducts>& concepts) {
  MOLE_CHECK_ARG(!concepts.empty(), "fuse_gradients: there is no concept to fuse");
  const Index d_out = W0.rows, d_in = W0.columns;
  MOLE_CHECK_SHAPE(d_out > 0 && d_in > 0, "fuse_gradients: W0 is empty");
  detail::check_matrix("fuse_gradients", W0, d_in);
  std::vector<double> moved(static_cast<std::size_t>(d_out * d_in)),
      all(static_cast<std::size_t>(d_in * d_in));
  for (const auto& [delta, C] : concepts) {
    detail::check_matrix("fuse_gradients", delta, d_in);
    detail::check_matrix("fuse_gradients", C, d_in);
    MOLE_CHECK_SHAPE(delta.rows == d_out && C.rows == d_in, "fuse_gradients: W0 is [", d_out, ",", d_in,
                     "], a delta has", delta.rows, "rows and its products", C.rows);
    const auto part = detail::host_product(1, delta.values, C.values, d_out, d_in, d_in);
    for (std::size_t i = 0; i < moved.size(); ++i) moved[i] += part[i];
    for (std::size_t i = 0; i < all.size(); ++i) all[i] += C.values[i];
  }
  Matrix W{d_out, d_in, detail::host_product(1, moved, detail::pseudo_inverse(all, d_in), d_out, d_in, d_in)};
  for (std::size_t i = 0; i < W.values.size(); ++i) W.values[i] += W0.values[i];
  return W;
}

/// The same from the inputs themselves.    Throws as fuse_products().
template <std::same_as<HostMatrix> Matrix>
Matrix fuse_gradients(const Matrix& W0, const std::vector<FusedConcept>& concepts) {
  std::vector<FusedProducts> reduced;
  for (const auto& [delta, inputs] : concepts) {
    detail::check_matrix("fuse_gradients", inputs, W0.columns);
    reduced.push_back({delta, {W0.columns, W0.columns, detail::gram(inputs)}});
  }
  return fuse_products(W0, reduced);
}

/// Custom Diffusion's merge of cross-attention's k or v: the W that is nearest W0 on regular texts while it
/// maps the concepts' words C to their outputs V under each fine-tuned model,
///   min |W C_reg^T - W0 C_reg^T| with W C^T = V^T:   W = W0 + (V^T - W0 C^T) (d C^T)^-1 d,   d = C (C_reg^T C_reg)^-1
/// W0 [d_out, d_in]; C_reg [n, d_in]; C [m, d_in], V [m, d_out]: a row a word; rows of C that repeat an earlier one are
/// left out with their V.
/// Throws ShapeError for matrices that do not fit, ArgumentError for no words, numbers that are not finite, or words
/// that depend on each other linearly.
template <std::same_as<HostMatrix> Matrix>
Matrix merge_custom_diffusion(const Matrix& W0, const std::type_identity_t<Matrix>& C_reg,
                              const std::type_identity_t<Matrix>& C, const std::type_identity_t<Matrix>& V) {
  const Index d_out = W0.rows, d = W0.columns;
  MOLE_CHECK_SHAPE(d_out > 0 && d > 0, "merge_custom_diffusion: W0 is empty");
  detail::check_matrix("merge_custom_diffusion", W0, d);
  detail::check_matrix("merge_custom_diffusion", C_reg, d);
  detail::check_matrix("merge_custom_diffusion", C, d);
  detail::check_matrix("merge_custom_diffusion", V, d_out);
  MOLE_CHECK_SHAPE(C.rows == V.rows, "merge_custom_diffusion: C has", C.rows, "rows and V", V.rows);
  std::vector<double> words, outputs;
  for (Index i = 0; i < C.rows; ++i) {
    const auto row = C.values.begin() + i * d;
    bool known = false;
    for (std::size_t k = 0; k < words.size() && !known; k += static_cast<std::size_t>(d))
      known = std::equal(row, row + d, words.begin() + static_cast<std::ptrdiff_t>(k));
    if (known) continue;
    words.insert(words.end(), row, row + d);
    outputs.insert(outputs.end(), V.values.begin() + i * d_out, V.values.begin() + (i + 1) * d_out);
  }
  const Index m = static_cast<Index>(words.size()) / d;
  MOLE_CHECK_ARG(m > 0, "merge_custom_diffusion: there is no word to keep");
  const auto D = detail::host_product(1, words, detail::pseudo_inverse(detail::gram(C_reg), d), m, d, d);
  const auto inner = detail::host_product(1, D, detail::host_transpose(words, m, d), m, d, m);
  const auto svd = detail::host_svd(inner, m, m);
  MOLE_CHECK_ARG(svd.S.back() > svd.S.front() * 1e-13,
                 "merge_custom_diffusion: the words depend on each other, or on",
                 "directions that no regular text has; leave some out");
  // What is missing to V^T, [d_out, m].
  auto missing = detail::host_product(-1, W0.values, detail::host_transpose(words, m, d), d_out, d, m);
  for (Index o = 0; o < d_out; ++o)
    for (Index i = 0; i < m; ++i)
      missing[static_cast<std::size_t>(o * m + i)] += outputs[static_cast<std::size_t>(i * d_out + o)];
  const auto factor = detail::host_product(1, missing, detail::pseudo_inverse(inner, m), d_out, m, m);
  Matrix W{d_out, d, detail::host_product(1, factor, D, d_out, m, d)};
  for (std::size_t i = 0; i < W.values.size(); ++i) W.values[i] += W0.values[i];
  return W;
}

}  // namespace mole
