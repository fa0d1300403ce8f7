#pragma once
// LoRA experts: trainable factors, and the canonical form of frozen ones.
//
//   A [r, d_in], B [d_out, r], s    the factors and the scale alpha / r (alpha / sqrt(r) with rsLoRA)
//   E(x) = s (x A^T) B^T            the expert's output (eq. 8)
//   B = Q R, A' = s R A             canonical: E(x) = (x A'^T) Q^T and |E(x)| = |x A'^T|

#include <Eigen/QR>
#include <cmath>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <mole/ops/matmul.hpp>

namespace mole {

/// One adapter's factors for one linear layer, on the host in row-major double precision.
struct LoraFactors {
  Index rank = 0, d_in = 0, d_out = 0;
  double scale = 1;
  std::vector<double> A;  ///< [rank, d_in]
  std::vector<double> B;  ///< [d_out, rank]
};

/// An adapter as a model sees it: which slots it adapts, and their factors, read when asked for.
struct LoraSet {
  std::string name;
  std::string digest;  ///< identifies the adapter's content, for gates files
  std::vector<std::string> slots;
  std::function<LoraFactors(const std::string& slot)> factors;
};

/// A frozen expert in canonical form: E(x) = (x A^T) Q^T with Q^T Q = 1, so the norms, dot products and
/// gradients of eq. 9-11 on E equal those on h = x A^T. The rank is min(r, d_out).
struct CanonicalExpert {
  Index rank = 0, d_in = 0, d_out = 0;
  std::vector<double> A;  ///< [rank, d_in] = s R A
  std::vector<double> Q;  ///< [d_out, rank], orthonormal columns
};

/// The thin QR of B with diag(R) >= 0, R and s folded into A. Throws ShapeError when the factors do not have
/// the extents they state. (A template, like delta, so that only programs which call it compile Eigen's QR.)
template <class Factors = LoraFactors>
CanonicalExpert canonical(const std::type_identity_t<Factors>& lora) {
  using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Index r = lora.rank, k = std::min(r, lora.d_out);
  MOLE_CHECK_SHAPE(r > 0 && lora.A.size() == static_cast<std::size_t>(r * lora.d_in) &&
                       lora.B.size() == static_cast<std::size_t>(lora.d_out * r),
                   "canonical: factors of", lora.A.size(), "and", lora.B.size(), "elements are not A [", r,
                   ",", lora.d_in, "] and B [", lora.d_out, ",", r, "]");
  const Eigen::Map<const Matrix> A(lora.A.data(), r, lora.d_in), B(lora.B.data(), lora.d_out, r);
  const Eigen::HouseholderQR<Matrix> qr(B);
  Matrix Q = qr.householderQ() * Matrix::Identity(lora.d_out, k);
  Matrix R = qr.matrixQR().topRows(k).template triangularView<Eigen::Upper>();
  for (Index i = 0; i < k; ++i) {
    if (R(i, i) >= 0) continue;
    R.row(i) *= -1;
    Q.col(i) *= -1;
  }
  const Matrix folded = lora.scale * (R * A);
  return {k, lora.d_in, lora.d_out, std::vector<double>(folded.data(), folded.data() + folded.size()),
          std::vector<double>(Q.data(), Q.data() + Q.size())};
}

/// The full-rank change of a layer's weight, s B A [d_out, d_in], row-major.
template <class Factors = LoraFactors>
std::vector<double> delta(const std::type_identity_t<Factors>& lora) {
  using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Eigen::Map<const Matrix> A(lora.A.data(), lora.rank, lora.d_in),
      B(lora.B.data(), lora.d_out, lora.rank);
  const Matrix product = lora.scale * (B * A);
  return {product.data(), product.data() + product.size()};
}

/// A trainable LoRA of one layer. A starts uniform in +-1/sqrt(d_in) and B at zero, as PEFT's do.
template <class T, class B>
struct LoraExpert {
  Tensor<T, B> down;  ///< A [r, d_in]
  Tensor<T, B> up;    ///< B [d_out, r]
  double scale = 1;

  bool defined() const { return down.defined(); }
};

/// Throws ArgumentError for a rank below 1.
template <class T, class B>
LoraExpert<T, B> make_lora(Index rank, Index d_in, Index d_out, double scale, RandomStream stream) {
  MOLE_CHECK_ARG(rank >= 1, "make_lora: expected a rank of at least 1, got", rank);
  const double bound = 1 / std::sqrt(static_cast<double>(d_in));
  LoraExpert<T, B> lora{Tensor<T, B>::uniform({rank, d_in}, stream, bound),
                        Tensor<T, B>::zeros({d_out, rank}), scale};
  lora.down.set_requires_grad();
  lora.up.set_requires_grad();
  return lora;
}

/// E(x) = s (x A^T) B^T (eq. 8).  x [.., d_in], result [.., d_out].    Throws ShapeError.
template <class T, class B>
Tensor<T, B> lora_output(const Tensor<T, B>& x, const LoraExpert<T, B>& lora) {
  return linear(scale(linear(x, lora.down), static_cast<Compute<T>>(lora.scale)), lora.up);
}

}  // namespace mole
