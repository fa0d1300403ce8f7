// Packed weights beside dense ones in bf16, on random numbers: a frozen layer 4096 -> 4096 for some numbers of rows, and a
// step of MoLE at llm (8192 tokens, 8 experts of rank 16, gates a token). A few rows are multiplied with 8 weights in turn,
// so that none is still in the second cache, as in a decoder. Prints medians of 15 rounds and how much faster than dense.
// An argument names the one format to measure.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include <mole/cuda.cuh>

#include "../random_rows.hpp"

namespace {

using mole::bf16;
using mole::Cuda;
using mole::Index;
using Matrix = mole::Tensor<bf16, Cuda>;
using Weight = mole::FrozenWeight<bf16, Cuda>;

constexpr Index d = 4096;

Matrix random(const mole::Shape& shape, std::uint64_t stream, float by = 1) {
  return Matrix::randn(shape, {1, stream}, by);
}

/// Microseconds of a call, of some in a graph.
double time_of(const std::function<void()>& calls, int count) {
  mole::CudaGraph graph(calls);
  cudaEvent_t begin, end;
  MOLE_CUDA_CHECK(cudaEventCreate(&begin));
  MOLE_CUDA_CHECK(cudaEventCreate(&end));
  std::vector<float> times;
  for (int round = 0; round < 15; ++round) {
    graph.replay();
    MOLE_CUDA_CHECK(cudaEventRecord(begin, Cuda::stream()));
    for (int i = 0; i < 4; ++i) graph.replay();
    MOLE_CUDA_CHECK(cudaEventRecord(end, Cuda::stream()));
    MOLE_CUDA_CHECK(cudaEventSynchronize(end));
    float ms = 0;
    MOLE_CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
    times.push_back(ms / 4);
  }
  MOLE_CUDA_CHECK(cudaEventDestroy(begin));
  MOLE_CUDA_CHECK(cudaEventDestroy(end));
  std::nth_element(times.begin(), times.begin() + 7, times.end());
  return 1e3 * static_cast<double>(times[7]) / count;
}

/// A way to keep weights: several of one shape.
struct Way {
  std::string name;
  std::vector<Weight> weights;
};

double forward_time(const Way& way, Index rows) {
  const auto x = random({rows, d}, 2), y = Matrix::empty({rows, d});
  const int turns = rows > 256 ? 1 : 4;
  return time_of(
      [&] {
        for (int i = 0; i < turns; ++i)
          for (const auto& W : way.weights) W.forward(rows, x.data(), false, y.data());
      },
      turns * static_cast<int>(way.weights.size()));
}

/// A step of MoLE: forward, and back to x and the gate.
double mole_time(const Weight& W) {
  std::vector<mole::LoraFactors> factors;
  for (Index i = 0; i < 8; ++i) {
    const auto stream = static_cast<std::uint64_t>(i);
    mole::LoraFactors f;
    f.rank = 16, f.d_in = d, f.d_out = d, f.scale = 1;
    for (Index j = 0; j < 16 * d; ++j) {
      f.A.push_back(mole::normal({2, stream}, j) / 64);
      f.B.push_back(mole::normal({3, stream}, j) / 4);
    }
    factors.push_back(f);
  }
  mole::MoleLinear<bf16, Cuda> layer(W, {}, factors, {.pooling = mole::Pooling::token});
  auto x = random({8, 1024, d}, 2).set_requires_grad();
  const auto G = random({8, 1024, d}, 3);
  const std::vector<Matrix> leaves{x, layer.gate().weight, layer.gate().log_tau};
  const double time = time_of(
      [&] {
        for (const auto& leaf : leaves) leaf.zero_grad();
        mole::backward(layer(x).y, G);
      },
      1);
  for (const auto& leaf : leaves) leaf.zero_grad();  // they are in the graph's memory
  return time;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::string only = argc > 1 ? argv[1] : "";
    std::vector<const bench::PackedKind*> kinds{nullptr};
    for (const auto& kind : bench::packed_kinds)
      if (only.empty() || only == kind.name) kinds.push_back(&kind);
    const std::vector<Index> rows{1, 4, 8, 16, 32, 64, 512, 8192};
    std::printf(
        "microseconds, x W^T of so many rows of bf16, W %d x %d, and how much faster than dense\n%-8s",
        static_cast<int>(d), static_cast<int>(d), "");
    for (const Index n : rows) std::printf(" %15d", static_cast<int>(n));
    std::printf(" %15s\n", "MoLE step");
    std::vector<double> dense;
    for (const auto* kind : kinds) {
      Way way{kind ? kind->name : "dense", {}};
      for (std::uint64_t i = 0; i < 8; ++i)
        way.weights.push_back(kind ? mole::packed_weight<bf16, Cuda>(bench::random_rows(*kind, {d, d}))
                                   : Weight(random({d, d}, 10 + i, 1.0F / 64)));
      std::vector<double> times;
      for (const Index n : rows) times.push_back(forward_time(way, n));
      times.push_back(mole_time(way.weights.front()));
      if (!kind) dense = times;
      std::printf("%-8s", way.name.c_str());
      for (std::size_t i = 0; i < times.size(); ++i)
        std::printf(" %8.2f (%4.2f)", times[i], dense[i] / times[i]);
      std::printf("\n");
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_packed: %s\n", error.what());
    return 1;
  }
}
