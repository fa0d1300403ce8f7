#pragma once
// All benchmarks on an NVIDIA GPU, and bare gemm calls of cuBLAS.

#include <mole/cuda.cuh>

#include "add_all.hpp"

namespace bench {

/// cuBLAS as it comes: a handle of its own, with cuBLAS's defaults.
inline cublasHandle_t bare_handle() {
  static const cublasHandle_t handle = [] {
    cublasHandle_t made = nullptr;
    MOLE_CUBLAS_CHECK(cublasCreate(&made));
    MOLE_CUBLAS_CHECK(cublasSetStream(made, mole::Cuda::stream()));
    return made;
  }();
  return handle;
}

/// Row-major C = A op(B) is column-major C^T = op(B)^T A^T.
template <class T>
struct CublasGemm {
  void operator()(const mole::Gemm& g, const T* a, const T* b, T* c) const {
    const auto size = [](Index n) { return static_cast<int>(n); };
    const mole::Compute<T> one = 1, zero = 0;
    constexpr auto type = mole::detail::cublas_type<T>;
    MOLE_CUBLAS_CHECK(cublasGemmEx(bare_handle(), g.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N, CUBLAS_OP_N,
                                   size(g.n), size(g.m), size(g.k), &one, b, type, size(g.ldb), a, type,
                                   size(g.lda), &zero, c, type, size(g.ldc),
                                   mole::detail::cublas_compute<T>(), CUBLAS_GEMM_DEFAULT));
  }
};
template <class T>
struct BareBlas<T, mole::Cuda> {
  using type = CublasGemm<T>;
};

}  // namespace bench
