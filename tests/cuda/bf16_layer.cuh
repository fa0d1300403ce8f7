#pragma once
// A step of a MoLE layer whose inputs are numbers of bf16, in any scalar: what roundings make of it.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <mole/cuda.cuh>

#include "testing.hpp"

namespace mole::testing {

/// y [S, L, d_out], and the gradients of x [S, L, d_in], the gate's weight and log_tau, of N experts of rank r.
template <class T>
std::vector<std::vector<double>> layer_step(const Shape& tokens, Index d_in, Index d_out, Index N, Index r,
                                            Pooling pooling) {
  const Index S = tokens[0], L = tokens[1];
  std::vector<LoraFactors> factors;
  for (Index i = 0; i < N; ++i) {
    LoraFactors f;
    f.rank = r, f.d_in = d_in, f.d_out = d_out, f.scale = 0.1;
    f.A = doubles(noise<bf16, Cpu>({r, d_in}, 80 + static_cast<std::uint64_t>(i)));
    f.B = doubles(noise<bf16, Cpu>({d_out, r}, 20 + static_cast<std::uint64_t>(i)));
    factors.push_back(f);
  }
  const auto as = [](const Tensor<bf16, Cpu>& x) {
    const auto values = doubles(x);
    return Tensor<T, Cuda>::from(x.shape(), std::vector<T>(values.begin(), values.end()));
  };
  auto x = as(noise<bf16, Cpu>({S, L, d_in}, 1)).set_requires_grad();
  MoleLinear<T, Cuda> layer(as(noise<bf16, Cpu>({d_out, d_in}, 2)), as(noise<bf16, Cpu>({d_out}, 3)), factors,
                            {.pooling = pooling});
  layer.gate().weight.assign(as(noise<bf16, Cpu>({N * r, N}, 4)));
  const auto y = layer(x).y;
  backward(y, as(noise<bf16, Cpu>({S, L, d_out}, 5)));
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
