#pragma once
// Bare gemm calls of the processor's BLAS, where the build has one.

#include <mole/backends/cpu.hpp>

#include "bench.hpp"

namespace bench {

#ifdef EIGEN_USE_BLAS
/// Row-major C = A op(B) is column-major C^T = op(B)^T A^T.
template <class T, auto gemm>
struct BlasGemm {
  void operator()(const mole::Gemm& g, const T* a, const T* b, T* c) const {
    const int m = static_cast<int>(g.m), n = static_cast<int>(g.n), k = static_cast<int>(g.k);
    const int lda = static_cast<int>(g.lda), ldb = static_cast<int>(g.ldb), ldc = static_cast<int>(g.ldc);
    const T one = 1, zero = 0;
    gemm(g.transpose_b ? "T" : "N", "N", &n, &m, &k, &one, b, &ldb, a, &lda, &zero, c, &ldc);
  }
};
template <>
struct BareBlas<float, mole::Cpu> {
  using type = BlasGemm<float, sgemm_>;
};
template <>
struct BareBlas<double, mole::Cpu> {
  using type = BlasGemm<double, dgemm_>;
};
#endif

}  // namespace bench
