#pragma once
// The closest LoRA of a given rank to a sum of LoRAs or to a full change, by singular values: with
// D = U S V^T, B = U_k S_k and A = V_k^T (Eckart and Young, 1936; PEFT's "svd").
//
//   sum_i c_i B_i A_i = B_cat A_cat; B_cat = Q_b R_b, A_cat^T = Q_a R_a; svd of R_b R_a^T [R, R]
//
// The sum never becomes [d_out, d_in] where R = sum of ranks is smaller than both.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <optional>
#include <type_traits>
#include <vector>

#include <mole/compose/factors.hpp>
#include <mole/compose/host_svd.hpp>
#include <mole/nn/host_matrix.hpp>

namespace mole {

namespace detail {

/// How many of the singular values, largest first, a rank keeps.
inline Index kept_rank(const std::vector<double>& values, Index rank, Index largest_extent) {
  const auto count = static_cast<Index>(values.size());
  if (rank != full_rank) return std::min(rank, count);
  const double rounding =
      values[0] * static_cast<double>(largest_extent) * std::numeric_limits<double>::epsilon();
  Index kept = 1;
  while (kept < count && values[static_cast<std::size_t>(kept)] > rounding) ++kept;
  return kept;
}

/// The first `kept` columns of a matrix of `columns`, row-major; column j times factor[j], where given.
inline std::vector<double> first_columns(const std::vector<double>& matrix, Index columns, Index kept,
                                         const std::vector<double>* factor = nullptr) {
  std::vector<double> first;
  for (std::size_t i = 0; i < matrix.size(); i += static_cast<std::size_t>(columns))
    for (std::size_t j = 0; j < static_cast<std::size_t>(kept); ++j)
      first.push_back(factor ? matrix[i + j] * (*factor)[j] : matrix[i + j]);
  return first;
}

}  // namespace detail

/// The LoRA of rank min(rank, d_out, d_in) closest to a change [d_out, d_in], row-major; scale 1. full_rank
/// keeps all but rounding.    Throws ArgumentError for a rank below 1, NumericError where the change is not
/// finite. (A template, like what uses it, so that only programs which call it compile Eigen's SVD.)
template <class Factors = LoraFactors>
Factors truncated_svd(const std::vector<double>& change, Index d_out, Index d_in, Index rank) {
  using Real = decltype(Factors::scale);
  MOLE_CHECK_ARG(rank >= 1, "truncated_svd: expected a rank of at least 1, got", rank);
  MOLE_CHECK_SHAPE(d_out > 0 && d_in > 0 && change.size() == static_cast<std::size_t>(d_out * d_in),
                   "truncated_svd: a change of", change.size(), "elements is not", Shape{d_out, d_in});
  MOLE_CHECK_AS(NumericError, detail::all_finite<double>(change),
                "truncated_svd: the change holds NaN or infinite numbers");
  const auto svd = detail::host_svd<Real>(change, d_out, d_in);
  const Index all = std::min(d_out, d_in), k = detail::kept_rank(svd.S, rank, std::max(d_out, d_in));
  return {k,
          d_in,
          d_out,
          1.0,
          detail::host_transpose(detail::first_columns(svd.V, all, k), d_in, k),
          detail::first_columns(svd.U, all, k, &svd.S)};
}

/// The LoRA of rank min(rank, R, d_out, d_in) closest to a LoRA of rank R, such as concatenate() makes;
/// scale 1. In time R^2 (d_out + d_in) where R is the smallest of the three.    Throws as the above.
template <class Factors = LoraFactors>
Factors truncated_svd(const std::type_identity_t<Factors>& lora, Index rank) {
  using Real = decltype(Factors::scale);
  const Index R = lora.rank, d_in = lora.d_in, d_out = lora.d_out;
  if (R >= std::min(d_out, d_in)) return truncated_svd<Factors>(delta(lora), d_out, d_in, rank);
  MOLE_CHECK_ARG(rank >= 1, "truncated_svd: expected a rank of at least 1, got", rank);
  detail::check_factors("truncated_svd", lora);
  const auto a = thin_qr(detail::host_transpose(lora.A, R, d_in), d_in, R), b = thin_qr(lora.B, d_out, R);
  const auto core = detail::host_product(lora.scale, b.R, detail::host_transpose(a.R, R, R), R, R, R);
  MOLE_CHECK_AS(NumericError, detail::all_finite<double>(core),
                "truncated_svd: the LoRA holds NaN or infinite numbers");
  const auto svd = detail::host_svd<Real>(core, R, R);
  const Index k = detail::kept_rank(svd.S, rank, std::max(d_out, d_in));
  const auto A = detail::host_product(1, a.Q, detail::first_columns(svd.V, R, k), d_in, R, k);
  return {k,
          d_in,
          d_out,
          1.0,
          detail::host_transpose(A, d_in, k),
          detail::host_product(1, b.Q, detail::first_columns(svd.U, R, k, &svd.S), d_out, R, k)};
}

namespace detail {

// The rank asked for, or the largest of the slot's experts (PEFT: of the adapters' r, in every slot).
inline Index wanted_rank(const std::optional<Index>& rank, const SlotExperts& experts) {
  if (rank) return *rank;
  Index largest = 1;
  for (const auto& lora : experts.lora) largest = std::max(largest, lora.rank);
  return largest;
}

}  // namespace detail

}  // namespace mole
