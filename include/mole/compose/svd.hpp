#pragma once
// The closest LoRA of a given rank to a sum of LoRAs or to a full change, by singular values: with
// D = U S V^T, B = U_k S_k and A = V_k^T (Eckart and Young, 1936; PEFT's "svd").
//
//   sum_i c_i B_i A_i = B_cat A_cat; B_cat = Q_b R_b, A_cat^T = Q_a R_a; svd of R_b R_a^T [R, R]
//
// The sum never becomes [d_out, d_in] where R = sum of ranks is smaller than both.

#include <Eigen/QR>
#include <Eigen/SVD>
#include <algorithm>
#include <cstddef>
#include <limits>
#include <optional>
#include <type_traits>
#include <vector>

#include <mole/compose/factors.hpp>

namespace mole {

namespace detail {

using SvdMatrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic>;
using HostRows = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

inline std::vector<double> host_rows(const HostRows& matrix) {
  return {matrix.data(), matrix.data() + matrix.size()};
}

// How many of the singular values, largest first, a rank keeps.
inline Index kept_rank(const Eigen::VectorXd& values, Index rank, Index largest_extent) {
  if (rank != full_rank) return std::min(rank, values.size());
  const double rounding =
      values(0) * static_cast<double>(largest_extent) * std::numeric_limits<double>::epsilon();
  Index kept = 1;
  while (kept < values.size() && values(kept) > rounding) ++kept;
  return kept;
}

}  // namespace detail

/// The LoRA of rank min(rank, d_out, d_in) closest to a change [d_out, d_in], row-major; scale 1. full_rank
/// keeps all but rounding.    Throws ArgumentError for a rank below 1, NumericError where the change is not
/// finite. (A template, like what uses it, so that only programs which call it compile Eigen's SVD.)
template <class Factors = LoraFactors>
Factors truncated_svd(const std::vector<double>& change, Index d_out, Index d_in, Index rank) {
  MOLE_CHECK_ARG(rank >= 1, "truncated_svd: expected a rank of at least 1, got", rank);
  MOLE_CHECK_SHAPE(d_out > 0 && d_in > 0 && change.size() == static_cast<std::size_t>(d_out * d_in),
                   "truncated_svd: a change of", change.size(), "elements is not", Shape{d_out, d_in});
  const detail::SvdMatrix D = Eigen::Map<const detail::HostRows>(change.data(), d_out, d_in);
  MOLE_CHECK_AS(NumericError, D.allFinite(), "truncated_svd: the change holds NaN or infinite numbers");
  const Eigen::BDCSVD<detail::SvdMatrix> svd(D, Eigen::ComputeThinU | Eigen::ComputeThinV);
  const Eigen::VectorXd S = svd.singularValues();
  const Index k = detail::kept_rank(S, rank, std::max(d_out, d_in));
  return {k,
          d_in,
          d_out,
          1.0,
          detail::host_rows(svd.matrixV().leftCols(k).transpose()),
          detail::host_rows(svd.matrixU().leftCols(k) * S.head(k).asDiagonal())};
}

/// The LoRA of rank min(rank, R, d_out, d_in) closest to a LoRA of rank R, such as concatenate() makes;
/// scale 1. In time R^2 (d_out + d_in) where R is the smallest of the three.    Throws as the above.
template <class Factors = LoraFactors>
Factors truncated_svd(const std::type_identity_t<Factors>& lora, Index rank) {
  if (lora.rank >= std::min(lora.d_out, lora.d_in))
    return truncated_svd(delta(lora), lora.d_out, lora.d_in, rank);
  MOLE_CHECK_ARG(rank >= 1, "truncated_svd: expected a rank of at least 1, got", rank);
  const detail::SvdMatrix At = Eigen::Map<const detail::SvdMatrix>(lora.A.data(), lora.d_in, lora.rank);
  const detail::SvdMatrix B = Eigen::Map<const detail::HostRows>(lora.B.data(), lora.d_out, lora.rank);
  const Eigen::HouseholderQR<detail::SvdMatrix> qr_a(At), qr_b(B);
  const auto R = [&](const auto& qr) -> detail::SvdMatrix {
    return qr.matrixQR().topRows(lora.rank).template triangularView<Eigen::Upper>();
  };
  const auto Q = [&](const auto& qr, Index rows) -> detail::SvdMatrix {
    return qr.householderQ() * detail::SvdMatrix::Identity(rows, lora.rank);
  };
  const detail::SvdMatrix core = lora.scale * (R(qr_b) * R(qr_a).transpose());
  MOLE_CHECK_AS(NumericError, core.allFinite(), "truncated_svd: the LoRA holds NaN or infinite numbers");
  const Eigen::BDCSVD<detail::SvdMatrix> svd(core, Eigen::ComputeThinU | Eigen::ComputeThinV);
  const Eigen::VectorXd S = svd.singularValues();
  const Index k = detail::kept_rank(S, rank, std::max(lora.d_out, lora.d_in));
  return {k,
          lora.d_in,
          lora.d_out,
          1.0,
          detail::host_rows((Q(qr_a, lora.d_in) * svd.matrixV().leftCols(k)).transpose()),
          detail::host_rows(Q(qr_b, lora.d_out) * (svd.matrixU().leftCols(k) * S.head(k).asDiagonal()))};
}

namespace detail {

// The rank asked for, or the largest of the slot's experts, as PEFT has it.
inline Index wanted_rank(const std::optional<Index>& rank, const SlotExperts& experts) {
  if (rank) return *rank;
  Index largest = 1;
  for (const auto& lora : experts.lora) largest = std::max(largest, lora.rank);
  return largest;
}

}  // namespace detail

}  // namespace mole
