#pragma once
// LoRA experts: trainable factors, and the canonical form of frozen ones.
//
//   A [r, d_in], B [d_out, r], s    the factors and the scale alpha / r (alpha / sqrt(r) with rsLoRA)
//   E(x) = s (x A^T) B^T            the expert's output (eq. 8)
//   B = Q R, A' = s R A             canonical: E(x) = (x A'^T) Q^T and |E(x)| = |x A'^T|

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <mole/nn/host_matrix.hpp>
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

namespace detail {

inline void check_factors(const char* what, const LoraFactors& lora) {
  MOLE_CHECK_SHAPE(lora.rank > 0 && lora.d_in >= 0 && lora.d_out >= 0 &&
                       static_cast<Index>(lora.A.size()) == lora.rank * lora.d_in &&
                       static_cast<Index>(lora.B.size()) == lora.d_out * lora.rank,
                   what, ": factors of", lora.A.size(), "and", lora.B.size(), "elements are not A [",
                   lora.rank, ",", lora.d_in, "] and B [", lora.d_out, ",", lora.rank, "]");
}

}  // namespace detail

/// The thin QR of B with diag(R) >= 0, R and s folded into A. B may have a rank below r, or be zero: Q has
/// orthonormal columns all the same.    Throws ShapeError when the factors lack the extents they state.
inline CanonicalExpert canonical(const LoraFactors& lora) {
  detail::check_factors("canonical", lora);
  auto qr = thin_qr(lora.B, lora.d_out, lora.rank);
  const Index k = std::min(lora.rank, lora.d_out);
  return {k, lora.d_in, lora.d_out, detail::host_product(lora.scale, qr.R, lora.A, k, lora.rank, lora.d_in),
          std::move(qr.Q)};
}

namespace detail {

/// Whether a number stays finite as one of type T.
template <class T>
bool fits_in(double value) {
  return is_finite(static_cast<double>(static_cast<T>(value)));
}

template <class T>
bool all_finite(std::span<const T> values) {
  return std::all_of(values.begin(), values.end(),
                     [](const T& value) { return is_finite(static_cast<double>(value)); });
}

/// Throws NumericError, naming adapter and slot, where a factor is not finite as numbers of type T, or the scale is
/// not.
template <class T = double>
void check_finite_factors(const std::string& adapter, const std::string& slot, const LoraFactors& lora) {
  const auto check = [&](const std::vector<double>& factor) {
    for (const double value : factor)
      MOLE_CHECK_AS(
          NumericError, fits_in<T>(value), "adapter", adapter, "holds", value, "at", slot,
          ", which is no finite number in this model; take an earlier checkpoint of it or train it again");
  };
  check(lora.A);
  check(lora.B);
  MOLE_CHECK_AS(NumericError, fits_in<T>(lora.scale), "adapter", adapter, "has the scale", lora.scale, "at",
                slot, "; mend its lora_alpha");
}

/// canonical() for a model of numbers of type T. Throws also NumericError, naming adapter and slot, where the factors
/// or their scaled product are not finite.
template <class T>
CanonicalExpert canonical_in(const std::string& adapter, const std::string& slot, const LoraFactors& lora) {
  check_factors("canonical", lora);
  check_finite_factors(adapter, slot, lora);
  auto expert = canonical(lora);
  for (const double value : expert.A)
    MOLE_CHECK_AS(
        NumericError, fits_in<T>(value), "adapter", adapter, "at", slot, "times its scale", lora.scale,
        "is beyond this model's numbers; check its lora_alpha and its factors, or load the model in wider "
        "numbers, such as double");
  return expert;
}

}  // namespace detail

/// The full-rank change of a layer's weight, s B A [d_out, d_in], row-major.    Throws as canonical() does.
inline std::vector<double> delta(const LoraFactors& lora) {
  detail::check_factors("delta", lora);
  return detail::host_product(lora.scale, lora.B, lora.A, lora.d_out, lora.rank, lora.d_in);
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
