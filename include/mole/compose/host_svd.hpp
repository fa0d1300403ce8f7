#pragma once
// Singular values of a small matrix of doubles on the host.

#include <vector>

#include <mole/core/shape.hpp>

namespace mole::detail {

/// D = U diag(S) V^T with k = min(m, n) singular values, the largest first.
struct HostSvd {
  std::vector<double> U;  ///< [m, k], row-major
  std::vector<double> S;  ///< [k]
  std::vector<double> V;  ///< [n, k], row-major
};

/// D = U diag(S) V^T, by Eigen. D [m, n], row-major and finite.    (A template, so that only programs which call
/// it compile Eigen's SVD. Real is double.)
template <class Real>
HostSvd host_svd(const std::vector<Real>& D, Index m, Index n);

}  // namespace mole::detail

// In mole::compiled for its users, who need not read Eigen.
#ifndef MOLE_COMPILED

#  include <Eigen/SVD>
#  include <cstddef>
#  include <utility>

namespace mole::detail {

template <class Real>
HostSvd host_svd(const std::vector<Real>& D, Index m, Index n) {
  using Matrix = Eigen::Matrix<Real, Eigen::Dynamic, Eigen::Dynamic>;
  const auto at = [](Index row, Index columns, Index column) {
    return static_cast<std::size_t>(row * columns + column);
  };
  Matrix matrix(m, n);
  for (Index i = 0; i < m; ++i)
    for (Index j = 0; j < n; ++j) matrix(i, j) = D[at(i, n, j)];
  const Eigen::BDCSVD<Matrix> svd(matrix, Eigen::ComputeThinU | Eigen::ComputeThinV);
  const auto rows = [&](const Matrix& from) {
    std::vector<double> to;
    for (Index i = 0; i < from.rows(); ++i)
      for (Index j = 0; j < from.cols(); ++j) to.push_back(from(i, j));
    return to;
  };
  std::vector<double> S;
  for (Index i = 0; i < svd.singularValues().size(); ++i) S.push_back(svd.singularValues()(i));
  return {rows(svd.matrixU()), std::move(S), rows(svd.matrixV())};
}

}  // namespace mole::detail

#endif
