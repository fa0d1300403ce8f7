// Kernels that begin before the one ahead of them in the stream has ended. On a device before Hopper none does: the tests
// then compare a way with itself.

#include <doctest/doctest.h>

#include <vector>

#include <mole/cuda.cuh>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

/// Two layers with token gates, one after the other.
template <class T>
struct TwoLayers {
  static constexpr Index S = 6, L = 1024, d = 768, N = 3, r = 8;

  Tensor<T, Cuda> x = noise<T, Cuda>({S, L, d}, 1).set_requires_grad(), G = noise<T, Cuda>({S, L, d}, 2);
  std::vector<MoleLinear<T, Cuda>> layers;
  Tensor<T, Cuda> y;

  TwoLayers() {
    for (std::uint64_t i = 0; i < 2; ++i) {
      std::vector<LoraFactors> factors;
      for (std::uint64_t e = 0; e < N; ++e) {
        LoraFactors f;
        f.rank = r, f.d_in = d, f.d_out = d;
        f.A = doubles(noise<T, Cpu>({r, d}, 20 + 10 * i + e));
        f.B = doubles(noise<T, Cpu>({d, r}, 50 + 10 * i + e)), f.scale = 0.1;
        factors.push_back(f);
      }
      auto& layer = layers.emplace_back(noise<T, Cuda>({d, d}, 3 + i), noise<T, Cuda>({d}, 5 + i), factors,
                                        GateOptions{.pooling = Pooling::token});
      layer.gate().weight.assign(noise<T, Cuda>({N * r, N}, 7 + i));
    }
  }

  void step() {
    x.zero_grad();
    for (auto& layer : layers) layer.gate().weight.zero_grad();
    y = layers[1](layers[0](x).y).y;
    backward(y, G);
  }

  std::vector<std::vector<double>> results() const {
    return {doubles(y), doubles(x.grad()), doubles(layers[0].gate().weight.grad()),
            doubles(layers[1].gate().weight.grad())};
  }
};

/// Early launches are on or off while it lives.
struct EarlyLaunches {
  explicit EarlyLaunches(bool on) { detail::early_launches() = on; }
  ~EarlyLaunches() { detail::early_launches() = true; }
};

}  // namespace

TEST_CASE_TEMPLATE("Kernels that begin early give the same bits, one by one and in a graph", T, float, bf16) {
  TwoLayers<T> layers;
  {
    const EarlyLaunches off(false);
    layers.step();
  }
  const auto expected = layers.results();
  for (int i = 0; i < 20; ++i) {
    layers.step();
    REQUIRE(layers.results() == expected);
  }
  CudaGraph graph([&] { layers.step(); });
  for (int i = 0; i < 20; ++i) {
    const std::vector outputs{layers.y, layers.x.grad()};
    for (const auto& out : outputs)
      Cuda::poison(out.data(), static_cast<std::size_t>(out.size()) * sizeof(T));
    // One right behind the other: the first kernel of a replay must wait for the one before.
    for (int again = 0; again < 3; ++again) graph.replay();
    REQUIRE(layers.results() == expected);
  }
}

TEST_CASE("A kernel that begins early may come after a copy, a fill or a branch in a graph") {
  const Index rows = 4096, R = 24, N = 3;
  const auto from = noise<float, Cuda>({rows, R}, 1), F = noise<float, Cuda>({R, N}, 2),
             log_tau = Tensor<float, Cuda>::zeros({1});
  const auto v = Tensor<float, Cuda>::zeros({rows, R}), g = Tensor<float, Cuda>::zeros({rows, N}),
             norm = Tensor<float, Cuda>::zeros({rows});
  GateForward<float> a{};
  a.gates = 1, a.gate[0].F = F.data(), a.gate[0].log_tau = log_tau.data();
  a.v = v.data(), a.g = g.data(), a.norm = norm.data();
  a.rows = rows, a.features = R, a.experts = N, a.stride = R, a.eps = 1e-12F;
  const auto fill = [&] {
    MOLE_CUDA_CHECK(cudaMemcpyAsync(v.data(), from.data(), static_cast<std::size_t>(rows * R) * sizeof(float),
                                    cudaMemcpyDeviceToDevice, Cuda::stream()));
  };
  fill();
  REQUIRE(Cuda::gate_forward(a));
  const auto expected = doubles(g);
  Cuda::poison(v.data(), static_cast<std::size_t>(rows * R) * sizeof(float));
  CudaGraph after_copy([&] {
    fill();
    REQUIRE(Cuda::gate_forward(a));
  });
  after_copy.replay();
  CHECK(doubles(g) == expected);
  const auto other = Tensor<float, Cuda>::zeros({rows});
  CudaGraph after_branch([&] {
    Cuda::poison(v.data(), static_cast<std::size_t>(rows * R) * sizeof(float));
    Branch<Cuda> branch;
    branch.begin([&] { Cuda::copy(other.data(), from.data(), rows); });
    Cuda::copy(v.data(), from.data(), rows * R);
    branch.join();
    REQUIRE(Cuda::gate_forward(a));
  });
  after_branch.replay();
  CHECK(doubles(g) == expected);
}
