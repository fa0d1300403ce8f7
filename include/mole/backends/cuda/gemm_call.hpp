#pragma once
// A row-major Gemm as the column-major calls a BLAS understands. Plain arithmetic on extents, apart from the
// library that is called, so that it can be tested without a GPU.

#include <mole/core/gemm.hpp>
#include <mole/core/shape.hpp>

namespace mole::detail {

/// One strided-batched call in column-major terms: C [m, n] = alpha op(A) op(B) + beta C, `batch` times.
/// The first operand of the call is the Gemm's B, the second its A.
struct GemmCall {
  bool transpose_first = false, transpose_second = false;
  int m = 0, n = 0, k = 0;
  int ld_first = 1, ld_second = 1, ld_result = 1;
  long long first_stride = 0, second_stride = 0, result_stride = 0;
  int batch = 1;
};

/// Row-major C = op(A) op(B) is column-major C^T = op(B)^T op(A)^T. The two levels of the batch become one
/// where the strides allow it; otherwise the inner level is the call's batch and `outer` calls are made,
/// or the other way round if that takes fewer. call(call, a_offset, b_offset, c_offset) for each.
template <class F>
void for_each_gemm_call(const Gemm& g, F call) {
  if (g.m == 0 || g.n == 0 || g.batch[0] == 0 || g.batch[1] == 0) return;
  GemmCall c;
  c.transpose_first = g.transpose_b;
  c.transpose_second = g.transpose_a;
  c.m = blas_extent(g.n), c.n = blas_extent(g.m), c.k = blas_extent(g.k);
  c.ld_first = blas_leading(g.ldb), c.ld_second = blas_leading(g.lda), c.ld_result = blas_leading(g.ldc);

  auto along = [&](int level) {
    c.second_stride = g.a_stride[level];
    c.first_stride = g.b_stride[level];
    c.result_stride = g.c_stride[level];
    c.batch = blas_extent(g.batch[level]);
  };
  auto nests = [&](const Index(&stride)[2]) { return stride[0] == g.batch[1] * stride[1]; };
  const bool one_level =
      g.batch[0] == 1 || g.batch[1] == 1 || (nests(g.a_stride) && nests(g.b_stride) && nests(g.c_stride));
  if (one_level) {
    along(g.batch[1] == 1 ? 0 : 1);
    c.batch = blas_extent(g.batch[0] * g.batch[1]);
    call(c, Index{0}, Index{0}, Index{0});
    return;
  }
  const int inner = g.batch[0] > g.batch[1] ? 0 : 1, outer = 1 - inner;
  along(inner);
  for (Index i = 0; i < g.batch[outer]; ++i)
    call(c, i * g.a_stride[outer], i * g.b_stride[outer], i * g.c_stride[outer]);
}

}  // namespace mole::detail
