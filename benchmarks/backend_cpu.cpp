// The benchmarks on the CPU.

#include <mole/backends/cpu.hpp>

#include "add_all.hpp"

namespace bench {

#ifdef EIGEN_USE_BLAS
/// Row-major C = A op(B) is column-major C^T = op(B)^T A^T.
template <class T, auto gemm>
struct BareGemm {
  void operator()(const mole::Gemm& g, const T* a, const T* b, T* c) const {
    const int m = static_cast<int>(g.m), n = static_cast<int>(g.n), k = static_cast<int>(g.k);
    const int lda = static_cast<int>(g.lda), ldb = static_cast<int>(g.ldb), ldc = static_cast<int>(g.ldc);
    const T one = 1, zero = 0;
    gemm(g.transpose_b ? "T" : "N", "N", &n, &m, &k, &one, b, &ldb, a, &lda, &zero, c, &ldc);
  }
};
template <>
struct BareBlas<float, mole::Cpu> {
  using type = BareGemm<float, sgemm_>;
};
template <>
struct BareBlas<double, mole::Cpu> {
  using type = BareGemm<double, dgemm_>;
};
#endif

void add_cpu(const Options& options) {
  if (options.dtype == "f32") return add_all<float, mole::Cpu>(options);
  if (options.dtype == "f64") return add_all<double, mole::Cpu>(options);
  if (options.dtype == "bf16") return add_all<mole::bf16, mole::Cpu>(options);
  if (options.dtype == "half") return add_all<mole::half, mole::Cpu>(options);
  throw mole::ArgumentError("--dtype " + options.dtype + ": on the CPU choose f32, f64, bf16 or half");
}

}  // namespace bench
