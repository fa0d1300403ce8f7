// The kernel for a mixture's two products beside cuBLAS, on random numbers, in turns.
// For each shape: cuBLAS's base product alone; cuBLAS, base then the second product; the kernel, in tiles of each width.
// Forth (B is [N, K]) and back (B is [K, N]). Prints medians of 15 rounds, and the largest difference from cuBLAS, which
// rounds the sum twice.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include <mole/cuda.cuh>

namespace {

using mole::Index;
using Matrix = mole::Tensor<mole::bf16, mole::Cuda>;

Matrix random(Index rows, Index columns, std::uint64_t stream, float by = 1) {
  const auto drawn = mole::Tensor<float, mole::Cuda>::randn({rows, columns}, {1, stream});
  return Matrix::from({rows, columns}, [&] {
    const auto v = (drawn * by).to_host();
    return std::vector<mole::bf16>(v.begin(), v.end());
  }());
}

struct Way {
  std::string name;
  std::function<void()> run;
  Matrix result;
  std::vector<float> ms = {};
};

/// The largest difference, of numbers of size 1 or more as a share of them.
double difference(const Matrix& a, const Matrix& b) {
  const auto x = a.to_host(), y = b.to_host();
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double left = static_cast<float>(x[i]), right = static_cast<float>(y[i]),
                 error = std::abs(left - right) / (1 + std::abs(right));
    worst = error <= worst ? worst : error;
  }
  return worst;
}

/// A0 [M, K], A1 [M, R].
void measure(const char* name, Index M, Index N, Index K, Index R, bool back) {
  const auto A0 = random(M, K, 1), B0 = random(N, K, 2, 1 / std::sqrt(static_cast<float>(K))),
             A1 = random(M, R, 3), B1 = random(N, R, 4, 0.1f), D = Matrix::empty({M, N}),
             E = Matrix::empty({M, N});
  const auto product = [&](const Matrix& a, const Matrix& b, Index k, double beta) {
    const auto spec = back ? mole::detail::gemm_nn(M, N, k, beta) : mole::detail::gemm_nt(M, N, k, beta);
    mole::Cuda::gemm(spec, a.data(), b.data(), D.data());
  };
  const mole::TwoProducts<mole::bf16> both{.a0 = A0.data(),
                                           .b0 = B0.data(),
                                           .a1 = A1.data(),
                                           .b1 = B1.data(),
                                           .d = E.data(),
                                           .rows = M,
                                           .columns = N,
                                           .inner0 = K,
                                           .inner1 = R,
                                           .stride1 = R,
                                           .across = back};
  if (!mole::detail::two_products_fit<mole::Cuda>(both)) {
    std::printf("%s: the kernel does not take this: is the device a Hopper, and the build for sm_90a?\n",
                name);
    return;
  }
  std::vector<Way> ways{
      {"cuBLAS, base alone", [&] { product(A0, B0, K, 0); }, D},
      {"cuBLAS, then the second", [&] { product(A0, B0, K, 0), product(A1, B1, R, 1); }, D}};
  const auto add_widths = [&](auto across) {
    mole::detail::for_tile_widths<across()>([&](auto width, Index) {
      ways.push_back({"ours, " + std::to_string(width()) + " wide",
                      [&both, width] { mole::detail::launch_tiles<width(), decltype(across)::value>(both); },
                      E});
    });
  };
  back ? add_widths(std::true_type()) : add_widths(std::false_type());
  cudaEvent_t begin, end;
  MOLE_CUDA_CHECK(cudaEventCreate(&begin));
  MOLE_CUDA_CHECK(cudaEventCreate(&end));
  const int repeats = static_cast<double>(M) * static_cast<double>(N * K) > 5e10 ? 4 : 20;
  for (int round = 0; round < 15; ++round)
    for (auto& way : ways) {
      way.run();
      MOLE_CUDA_CHECK(cudaEventRecord(begin, mole::Cuda::stream()));
      for (int i = 0; i < repeats; ++i) way.run();
      MOLE_CUDA_CHECK(cudaEventRecord(end, mole::Cuda::stream()));
      MOLE_CUDA_CHECK(cudaEventSynchronize(end));
      float ms = 0;
      MOLE_CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
      way.ms.push_back(ms / static_cast<float>(repeats));
    }
  ways[1].run();
  for (auto& way : ways) {
    std::nth_element(way.ms.begin(), way.ms.begin() + 7, way.ms.end());
    const bool ours = way.name.starts_with("ours");
    if (ours) way.run();
    std::printf("%-5s %-5s %-24s %8.4f ms", name, back ? "back" : "forth", way.name.c_str(),
                static_cast<double>(way.ms[7]));
    if (ours) std::printf("  differs by %.2g", difference(E, D));
    std::printf("\n");
  }
}

}  // namespace

int main() {
  // Tokens, inputs, outputs and ranks of benchmarks/README.md's shapes.
  struct Shape {
    const char* name;
    Index tokens, in, out, ranks;
  };
  for (const auto& s :
       {Shape{"llm", 8192, 4096, 4096, 128}, Shape{"flan", 6144, 1024, 1024, 128},
        Shape{"t5", 6144, 768, 768, 24}, Shape{"sd", 8192, 640, 640, 96}, Shape{"unet", 8192, 320, 320, 48},
        Shape{"up", 4096, 4096, 14336, 192}, Shape{"many", 1024, 1024, 1024, 1024}})
    for (const bool back : {false, true})
      measure(s.name, s.tokens, back ? s.in : s.out, back ? s.out : s.in, s.ranks, back);
}
