#pragma once
// One matrix product on the CPU: by a BLAS where EIGEN_USE_BLAS is set, unless it is not made for this processor, else by
// Eigen's kernels. Eigen is called below its expressions: a product written as one compiles thousands of functions for
// each scalar type and kind of transpose, its kernels some hundred for all.

#include <mole/backends/cpu_blas.hpp>
#include <mole/core/gemm.hpp>
#include <mole/core/omp.hpp>

#ifdef MOLE_COMPILED

namespace mole::detail {

/// See below. In mole::compiled, so that its users need not read Eigen.
template <class T>
void host_gemm(const Gemm& g, const T* a, const T* b, T* c);

}  // namespace mole::detail

#else

#  include <cstddef>
#  include <vector>

#  include <mole/backends/cpu_product.hpp>

namespace mole {

namespace detail {

#  ifdef EIGEN_USE_BLAS

inline void blas_gemm_call(const char* ta, const char* tb, const int* m, const int* n, const int* k,
                           const float* alpha, const float* a, const int* lda, const float* b, const int* ldb,
                           const float* beta, float* c, const int* ldc) {
  sgemm_(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
inline void blas_gemm_call(const char* ta, const char* tb, const int* m, const int* n, const int* k,
                           const double* alpha, const double* a, const int* lda, const double* b,
                           const int* ldb, const double* beta, double* c, const int* ldc) {
  dgemm_(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

/// Straight to the BLAS that Eigen would call; Eigen would first zero C and then add to it. Row-major C = A B
/// is column-major C^T = B^T A^T.    Throws ShapeError for an extent that a BLAS cannot count.
template <class T>
void host_gemm(const Gemm& g, const T* a, const T* b, T* c) {
  if (g.m == 0 || g.n == 0) return;
  if (blas_lags()) return block_product(g, a, b, c);
  const char ta = g.transpose_a ? 'T' : 'N', tb = g.transpose_b ? 'T' : 'N';
  const int m = blas_extent(g.m), n = blas_extent(g.n), k = blas_extent(g.k);
  const int lda = blas_leading(g.lda), ldb = blas_leading(g.ldb), ldc = blas_leading(g.ldc);
  const T alpha = static_cast<T>(g.alpha), beta = static_cast<T>(g.beta);
  blas_gemm_call(&tb, &ta, &n, &m, &k, &alpha, b, &ldb, a, &lda, &beta, c, &ldc);
}

#  else

/// A product of Eigen's for its parallelize_gemm: C^T += alpha op(B)^T op(A)^T, column-major. The kind of
/// transpose is a pointer to a function, so that all kinds share the rest.
template <class T>
struct EigenGemm {
  using EigenIndex = Eigen::Index;
  using Traits = Eigen::internal::gebp_traits<T, T>;
  using Info = Eigen::internal::GemmParallelInfo<EigenIndex>;
  using Blocks = Eigen::internal::level3_blocking<T, T>;
  using Blocking = Eigen::internal::gemm_blocking_space<Eigen::ColMajor, T, T, Eigen::Dynamic, Eigen::Dynamic,
                                                        Eigen::Dynamic>;
  using Run = void (*)(EigenIndex, EigenIndex, EigenIndex, const T*, EigenIndex, const T*, EigenIndex, T*,
                       EigenIndex, EigenIndex, T, Blocks&, Info*);
  template <int of_b, int of_a>
  using Product = Eigen::internal::general_matrix_matrix_product<EigenIndex, T, of_b, false, T, of_a, false,
                                                                 Eigen::ColMajor, 1>;

  const Gemm& g;
  const T *a, *b;
  T* c;
  Run run;
  Blocking& blocking;

  static Run kind(bool transpose_a, bool transpose_b) {
    constexpr int row = Eigen::RowMajor, column = Eigen::ColMajor;
    if (transpose_b) return transpose_a ? &Product<row, row>::run : &Product<row, column>::run;
    return transpose_a ? &Product<column, row>::run : &Product<column, column>::run;
  }

  void initParallelSession(EigenIndex threads) const {
    blocking.initParallel(g.n, g.m, g.k, threads);
    blocking.allocateA();
  }

  /// Rows and columns of C. Eigen passes -1 for all columns.
  void operator()(EigenIndex row, EigenIndex rows, EigenIndex column = 0, EigenIndex columns = -1,
                  Info* info = nullptr) const {
    run(columns < 0 ? g.n : columns, rows, g.k, b + column * (g.transpose_b ? g.ldb : 1), g.ldb,
        a + row * (g.transpose_a ? 1 : g.lda), g.lda, c + row * g.ldc + column, 1, g.ldc,
        static_cast<T>(g.alpha), blocking, info);
  }
};

/// y[i * y_step] += alpha sum_l M_il x[l * x_step] for i in [0, n), l in [0, k). M_il lies at
/// i * row + l * column, and one of the two steps is 1.
template <class T>
void host_gemv(Index n, Index k, T alpha, const T* M, Index row, Index column, const T* x, Index x_step, T* y,
               Index y_step) {
  constexpr Index lanes = 16;
  std::vector<T> packed;
  if (x_step != 1) {
    for (Index l = 0; l < k; ++l) packed.push_back(x[l * x_step]);
    x = packed.data();
  }
  if (column == 1) {
    for (Index i = 0; i < n; ++i) {
      const T* const from = M + i * row;
      T partial[lanes] = {};
      Index l = 0;
      for (; l + lanes <= k; l += lanes) {
        MOLE_OMP("omp simd")
        for (Index j = 0; j < lanes; ++j) partial[j] += from[l + j] * x[l + j];
      }
      for (Index half = lanes / 2; half > 0; half /= 2)
        for (Index j = 0; j < half; ++j) partial[j] += partial[j + half];
      for (; l < k; ++l) partial[0] += from[l] * x[l];
      y[i * y_step] += alpha * partial[0];
    }
    return;
  }
  // Four vectors of M at a time, so that the sums are read and written once for four.
  std::vector<T> sums(static_cast<std::size_t>(n));
  T* const to = sums.data();
  Index l = 0;
  for (; l + 4 <= k; l += 4) {
    const T* const m = M + l * column;
    MOLE_OMP("omp simd")
    for (Index i = 0; i < n; ++i)
      to[i] += x[l] * m[i] + x[l + 1] * m[column + i] + x[l + 2] * m[2 * column + i] +
               x[l + 3] * m[3 * column + i];
  }
  for (; l < k; ++l) {
    MOLE_OMP("omp simd")
    for (Index i = 0; i < n; ++i) to[i] += x[l] * M[l * column + i];
  }
  for (Index i = 0; i < n; ++i) y[i * y_step] += alpha * to[i];
}

/// By Eigen's blocked kernels; by plain loops where C is one row or column, or all is so small that blocks
/// would not pay.
template <class T>
void host_gemm(const Gemm& g, const T* a, const T* b, T* c) {
  const T alpha = static_cast<T>(g.alpha), beta = static_cast<T>(g.beta);
  if (beta != T(1))
    for (Index i = 0; i < g.m; ++i)
      for (Index j = 0; j < g.n; ++j) c[i * g.ldc + j] = beta == T(0) ? T(0) : beta * c[i * g.ldc + j];
  if (g.m == 0 || g.n == 0 || g.k == 0) return;
  const Index a_row = g.transpose_a ? 1 : g.lda, a_column = g.transpose_a ? g.lda : 1;
  const Index b_row = g.transpose_b ? 1 : g.ldb, b_column = g.transpose_b ? g.ldb : 1;
  if (g.m + g.n + g.k < 20) {
    for (Index i = 0; i < g.m; ++i)
      for (Index j = 0; j < g.n; ++j) {
        T sum = 0;
        for (Index l = 0; l < g.k; ++l) sum += a[i * a_row + l * a_column] * b[l * b_row + j * b_column];
        c[i * g.ldc + j] += alpha * sum;
      }
    return;
  }
  if (g.m == 1) return host_gemv(g.n, g.k, alpha, b, b_column, b_row, a, a_column, c, Index(1));
  if (g.n == 1) return host_gemv(g.m, g.k, alpha, a, a_row, a_column, b, b_row, c, g.ldc);
  typename EigenGemm<T>::Blocking blocking(g.n, g.m, g.k, 1, true);
  const EigenGemm<T> product{g, a, b, c, EigenGemm<T>::kind(g.transpose_a, g.transpose_b), blocking};
  Eigen::internal::parallelize_gemm<true>(product, Eigen::Index(g.m), Eigen::Index(g.n), Eigen::Index(g.k),
                                          true);
}

#  endif

}  // namespace detail

}  // namespace mole

#endif
