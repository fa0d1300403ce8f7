#pragma once
// A matrix product as backends take it, the shapes of product that layers are made of, and what a BLAS can
// count.

#include <algorithm>
#include <limits>

#include <mole/core/error.hpp>
#include <mole/core/shape.hpp>

namespace mole {

/// C_ij = alpha * op(A_ij) op(B_ij) + beta * C_ij, row-major, for a two-level batch (i, j).
/// op(A) is [m, k], op(B) is [k, n], C is [m, n]; ld* are distances between stored rows, *_stride the
/// distances between matrices along the two batch levels, all in elements. beta = 0 never reads C.
struct Gemm {
  bool transpose_a = false, transpose_b = false;
  Index m = 0, n = 0, k = 0;
  double alpha = 1, beta = 0;
  Index lda = 0, ldb = 0, ldc = 0;
  Index batch[2] = {1, 1};
  Index a_stride[2] = {0, 0}, b_stride[2] = {0, 0}, c_stride[2] = {0, 0};
};

namespace detail {

/// The gemm of x [M, K] and W [N, K]: y [M, N] = x W^T, all contiguous.
inline Gemm gemm_nt(Index m, Index n, Index k, double beta = 0) {
  return Gemm{.transpose_b = true, .m = m, .n = n, .k = k, .beta = beta, .lda = k, .ldb = k, .ldc = n};
}
/// The gemm of G [M, N] and W [N, K]: dx [M, K] = G W.
inline Gemm gemm_nn(Index m, Index k, Index n, double beta = 0) {
  return Gemm{.m = m, .n = k, .k = n, .beta = beta, .lda = n, .ldb = k, .ldc = k};
}
/// The gemm of G [M, N] and x [M, K]: dW [N, K] = G^T x.
inline Gemm gemm_tn(Index n, Index k, Index m, double beta = 0) {
  return Gemm{.transpose_a = true, .m = n, .n = k, .k = m, .beta = beta, .lda = n, .ldb = k, .ldc = k};
}

/// `one`, `count` times. The matrices A, B and C of the next product begin a, b and c elements further on.
inline Gemm batched(Gemm one, Index count, Index a, Index b, Index c) {
  one.batch[1] = count;
  one.a_stride[1] = a, one.b_stride[1] = b, one.c_stride[1] = c;
  return one;
}

/// An extent as a BLAS counts it. Throws ShapeError for one that it cannot count.
inline int blas_extent(Index n) {
  MOLE_CHECK_SHAPE(n <= std::numeric_limits<int>::max(), "gemm: an extent of", n,
                   "is more than a BLAS can count");
  return static_cast<int>(n);
}
/// The same of a leading dimension, of which a BLAS asks that it is at least 1, even for no columns.
inline int blas_leading(Index ld) { return blas_extent(std::max<Index>(ld, 1)); }

}  // namespace detail

}  // namespace mole
