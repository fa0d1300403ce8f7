// Go or no-go for MoLE's products on Hopper: hopper::two_products beside cuBLAS, on random numbers, in turns.
// For each shape: the base product alone, and with MoLE's second product of R columns added; forth (B is [N, K]) and
// back (B is [K, N]). Prints medians of 15 rounds and the largest difference from cuBLAS, which rounds the sum twice.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include <cublas_v2.h>

#include "hopper/two_products.cuh"

namespace {

using hopper::bf16;

template <class Status>
void check(Status status, const char* what) {
  if (static_cast<int>(status) == 0) return;
  std::fprintf(stderr, "%s failed: %d\n", what, static_cast<int>(status));
  std::exit(1);
}

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                            const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                            CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/// The driver's function, without linking the driver.
Encode encode() {
  static const Encode found = [] {
    void* f = nullptr;
    cudaDriverEntryPointQueryResult result;
#if CUDART_VERSION >= 12050
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &result),
          "cuTensorMapEncodeTiled");
#else
    check(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &f, cudaEnableDefault, &result),
          "cuTensorMapEncodeTiled");
#endif
    return reinterpret_cast<Encode>(f);
  }();
  return found;
}

/// A matrix [rows, columns], copied in boxes.
CUtensorMap map_of(const bf16* p, long rows, long columns, int box_rows, int box_columns) {
  CUtensorMap map;
  const cuuint64_t size[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t stride[1] = {static_cast<cuuint64_t>(columns) * 2};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(box_columns), static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t step[2] = {1, 1};
  check(encode()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<bf16*>(p), size, stride, box, step,
                 CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
        "cuTensorMapEncodeTiled");
  return map;
}

/// A0, B0, A1, B1, the results D of cuBLAS and E of our kernel; K0 and K1 are multiples of 64.
struct Problem {
  int M, N, K0, K1;
  bf16 *A0, *B0, *A1, *B1, *D, *E;
};

template <int BN, int Transposed, int Stages>
std::function<void()> own(const Problem& p, bool both) {
  const auto of_b = [&](const bf16* b, int k) {
    return Transposed == 0 ? map_of(b, p.N, k, BN, 64) : map_of(b, k, p.N, 64, 64);
  };
  const hopper::Maps maps{map_of(p.A0, p.M, p.K0, 128, 64), of_b(p.B0, p.K0),
                          map_of(p.A1, p.M, p.K1, 128, 64), of_b(p.B1, p.K1), map_of(p.E, p.M, p.N, 64, 64)};
  constexpr int bytes = 1024 + Stages * (128 * 64 * 2 + BN * 64 * 2) + 128 * BN * 2 +
                        2 * Stages * static_cast<int>(sizeof(uint64_t));
  const auto kernel = hopper::two_products<BN, Transposed, Stages>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "shared memory");
  int processors = 0;
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0), "device");
  const int rows = p.M / 128, columns = p.N / BN, blocks = std::min(processors, rows * columns);
  return [=] { kernel<<<blocks, 384, bytes>>>(maps, rows, columns, p.K0 / 64, both ? p.K1 / 64 : 0, 16); };
}

/// Normal numbers times `by`.
__global__ void fill(bf16* p, long n, unsigned seed, float by) {
  for (long i = blockIdx.x * static_cast<long>(blockDim.x) + threadIdx.x; i < n;
       i += static_cast<long>(gridDim.x) * blockDim.x) {
    unsigned long long z = (i + 1) * 0x9E3779B97F4A7C15ull + seed * 0xD1B54A32D192ED03ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    z ^= z >> 31;
    const float u = (static_cast<unsigned>(z) >> 8) * (1.f / 16777216) + 1e-7f,
                v = (static_cast<unsigned>(z >> 32) >> 8) * (1.f / 16777216);
    p[i] = __float2bfloat16(by * sqrtf(-2 * logf(u)) * cosf(6.2831853f * v));
  }
}

bf16* random_matrix(long n, unsigned seed, float by = 1) {
  bf16* p = nullptr;
  check(cudaMalloc(&p, n * 2), "memory");
  fill<<<1024, 256>>>(p, n, seed, by);
  return p;
}

__global__ void compare(const bf16* a, const bf16* b, long n, float* worst) {
  float mine = 0;
  for (long i = blockIdx.x * static_cast<long>(blockDim.x) + threadIdx.x; i < n;
       i += static_cast<long>(gridDim.x) * blockDim.x) {
    const float x = a[i], y = b[i], e = fabsf(x - y) / (1 + fabsf(y));
    if (!(e <= mine)) mine = e;
  }
  atomicMax(reinterpret_cast<int*>(worst), __float_as_int(mine != mine ? 1e30f : mine));
}

float difference(const bf16* a, const bf16* b, long n) {
  float *worst = nullptr, host = 0;
  check(cudaMalloc(&worst, sizeof host), "memory");
  check(cudaMemset(worst, 0, sizeof host), "memset");
  compare<<<512, 256>>>(a, b, n, worst);
  check(cudaMemcpy(&host, worst, sizeof host, cudaMemcpyDeviceToHost), "kernel");
  check(cudaFree(worst), "memory");
  return host;
}

struct Way {
  std::string name;
  bool both;
  std::function<void()> run;
  std::vector<float> ms = {};
};

void measure(cublasHandle_t blas, const char* name, const Problem& p, bool back) {
  const auto product = [=](const bf16* a, const bf16* b, int k, float beta) {
    const float one = 1;
    check(cublasGemmEx(blas, back ? CUBLAS_OP_N : CUBLAS_OP_T, CUBLAS_OP_N, p.N, p.M, k, &one, b, CUDA_R_16BF,
                       back ? p.N : k, a, CUDA_R_16BF, k, &beta, p.D, CUDA_R_16BF, p.N, CUBLAS_COMPUTE_32F,
                       CUBLAS_GEMM_DEFAULT),
          "cublasGemmEx");
  };
  std::vector<Way> ways{{"cuBLAS", false, [=] { product(p.A0, p.B0, p.K0, 0); }},
                        {"cuBLAS, then the second", true, [=] {
                           product(p.A0, p.B0, p.K0, 0);
                           product(p.A1, p.B1, p.K1, 1);
                         }}};
  for (const bool both : {false, true}) {
    if (p.N % 256 == 0)
      ways.push_back({"ours, 256 wide", both, back ? own<256, 1, 3>(p, both) : own<256, 0, 3>(p, both)});
    ways.push_back({"ours, 128 wide", both, back ? own<128, 1, 5>(p, both) : own<128, 0, 5>(p, both)});
  }
  std::vector<float> errors;
  const long size = static_cast<long>(p.M) * p.N;
  for (const auto& way : ways) {
    check(cudaMemset(p.E, 0xff, size * 2), "memset");
    ways[way.both].run();
    way.run();
    check(cudaDeviceSynchronize(), "kernel");
    errors.push_back(way.name[0] == 'c' ? 0 : difference(p.E, p.D, size));
  }
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  const int repeats = static_cast<double>(size) * p.K0 > 5e10 ? 4 : 20;
  for (int round = 0; round < 15; ++round)
    for (auto& way : ways) {
      way.run();
      check(cudaEventRecord(begin), "event");
      for (int i = 0; i < repeats; ++i) way.run();
      check(cudaEventRecord(end), "event");
      check(cudaEventSynchronize(end), "kernel");
      float ms = 0;
      check(cudaEventElapsedTime(&ms, begin, end), "event");
      way.ms.push_back(ms / static_cast<float>(repeats));
    }
  for (auto& way : ways) std::nth_element(way.ms.begin(), way.ms.begin() + 7, way.ms.end());
  for (std::size_t i = 0; i < ways.size(); ++i) {
    const double ms = ways[i].ms[7], k = p.K0 + (ways[i].both ? p.K1 : 0);
    std::printf("%-5s %-5s %-5s %-24s %8.4f ms %6.1f TFLOP/s %6.3f of cuBLAS's speed, differs by %.2g\n",
                name, back ? "back" : "forth", ways[i].both ? "both" : "base", ways[i].name.c_str(), ms,
                2e-9 * static_cast<double>(size) * k / ms, ways[ways[i].both].ms[7] / ms,
                static_cast<double>(errors[i]));
  }
}

}  // namespace

int main() {
  cublasHandle_t blas = nullptr;
  check(cublasCreate(&blas), "cublasCreate");
  void* workspace = nullptr;
  check(cudaMalloc(&workspace, 64 << 20), "memory");
  check(cublasSetWorkspace(blas, workspace, 64 << 20), "cublasSetWorkspace");
  // Tokens, inputs, outputs and ranks of benchmarks/README.md's shapes.
  struct Shape {
    const char* name;
    int tokens, in, out, ranks;
  };
  for (const auto& s : {Shape{"llm", 8192, 4096, 4096, 128}, Shape{"flan", 6144, 1024, 1024, 128},
                        Shape{"t5", 6144, 768, 768, 64}, Shape{"up", 4096, 4096, 14336, 192}})
    for (const bool back : {false, true}) {
      const long M = s.tokens, N = back ? s.in : s.out, K = back ? s.out : s.in, R = s.ranks;
      const Problem p{static_cast<int>(M),     static_cast<int>(N),
                      static_cast<int>(K),     static_cast<int>(R),
                      random_matrix(M * K, 1), random_matrix(N * K, 2, 1 / std::sqrt(static_cast<float>(K))),
                      random_matrix(M * R, 3), random_matrix(N * R, 4, 0.1f),
                      random_matrix(M * N, 5), random_matrix(M * N, 6)};
      measure(blas, s.name, p, back);
      for (bf16* matrix : {p.A0, p.B0, p.A1, p.B1, p.D, p.E}) check(cudaFree(matrix), "memory");
    }
}
