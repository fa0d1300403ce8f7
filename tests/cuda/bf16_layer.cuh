#pragma once
// A step of a MoLE layer whose inputs are numbers of bf16, in any scalar: what roundings make of it.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <mole/cuda.cuh>

#include "testing.hpp"

namespace mole::testing {

/// Numbers of bf16 in T.
template <class T>
Tensor<T, Cuda> bf16_noise(const Shape& shape, std::uint64_t seed) {
  const auto values = doubles(noise<bf16, Cpu>(shape, seed));
  return Tensor<T, Cuda>::from(shape, std::vector<T>(values.begin(), values.end()));
}

/// A layer of N experts of rank r. Its experts and its gate are those of the seed, W and c are not.
template <class T>
MoleLinear<T, Cuda> bf16_layer(Index d_in, Index d_out, Index N, Index r, Pooling pooling,
                               std::uint64_t seed = 0) {
  std::vector<LoraFactors> factors;
  for (Index i = 0; i < N; ++i) {
    LoraFactors f;
    f.rank = r, f.d_in = d_in, f.d_out = d_out, f.scale = 0.1;
    f.A = doubles(noise<bf16, Cpu>({r, d_in}, 1000 * seed + 80 + static_cast<std::uint64_t>(i)));
    f.B = doubles(noise<bf16, Cpu>({d_out, r}, 1000 * seed + 20 + static_cast<std::uint64_t>(i)));
    factors.push_back(f);
  }
  MoleLinear<T, Cuda> layer(bf16_noise<T>({d_out, d_in}, 2), bf16_noise<T>({d_out}, 3), factors,
                            {.pooling = pooling});
  layer.gate().weight.assign(bf16_noise<T>({N * r, N}, 1000 * seed + 4));
  return layer;
}

/// y [S, L, d_out], and the gradients of x [S, L, d_in], the gate's weight and log_tau, of N experts of rank r.
template <class T>
std::vector<std::vector<double>> layer_step(const Shape& tokens, Index d_in, Index d_out, Index N, Index r,
                                            Pooling pooling) {
  const Index S = tokens[0], L = tokens[1];
  auto x = bf16_noise<T>({S, L, d_in}, 1).set_requires_grad();
  auto layer = bf16_layer<T>(d_in, d_out, N, r, pooling);
  const auto y = layer(x).y;
  backward(y, bf16_noise<T>({S, L, d_out}, 5));
  return {doubles(y), doubles(x.grad()), doubles(layer.gate().weight.grad()),
          doubles(layer.gate().log_tau.grad())};
}

/// |a - b| / |b|
inline double relative_distance(const std::vector<double>& a, const std::vector<double>& b) {
  double squares = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) squares += (a[i] - b[i]) * (a[i] - b[i]), size += b[i] * b[i];
  return std::sqrt(squares / size);
}

}  // namespace mole::testing
