#pragma once
// Random experts for the suites, as factors and as the literal path takes them, and Q^T of a full-width e.

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include <mole/autodiff/backward.hpp>
#include <mole/experts/literal.hpp>
#include <mole/experts/mole_linear.hpp>
#include <mole/experts/routers/registry.hpp>
#include <mole/ops/reduce.hpp>
#include <testing.hpp>

namespace mole::testing {

inline std::vector<double> random_numbers(Index n, std::uint64_t seed, double size = 1) {
  std::vector<double> values(static_cast<std::size_t>(n));
  for (Index i = 0; i < n; ++i) values[static_cast<std::size_t>(i)] = size * normal({seed, 77}, i);
  return values;
}

inline LoraFactors random_factors(Index rank, Index d_in, Index d_out, double scale, std::uint64_t seed) {
  return {rank,
          d_in,
          d_out,
          scale,
          random_numbers(rank * d_in, 2 * seed),
          random_numbers(d_out * rank, 2 * seed + 1)};
}

template <class T>
Tensor<T, Device> as_tensor(const Shape& shape, const std::vector<double>& values) {
  return Tensor<T, Device>::from(shape, std::vector<T>(values.begin(), values.end()));
}

template <class T>
std::vector<LoraExpert<T, Device>> literal_experts(const std::vector<LoraFactors>& experts) {
  std::vector<LoraExpert<T, Device>> list;
  for (const auto& expert : experts)
    list.push_back({as_tensor<T>({expert.rank, expert.d_in}, expert.A),
                    as_tensor<T>({expert.d_out, expert.rank}, expert.B), expert.scale});
  return list;
}

/// Q^T e.  e [N L d_out, N] ordered (expert, token, feature); the result [L R, N], (token, expert, rank).
inline std::vector<double> to_rank_space(const std::vector<double>& e,
                                         const ExpertStack<double, Device>& stack, Index L) {
  const Index N = static_cast<Index>(stack.ends.size()), R = stack.rank(), d_out = stack.Q.size(0);
  const auto Q = stack.Q.to_host();
  std::vector<double> F(static_cast<std::size_t>(L * R * N));
  for (Index l = 0; l < L; ++l)
    for (Index i = 0; i < N; ++i) {
      const Index first = i ? stack.ends[static_cast<std::size_t>(i - 1)] : 0;
      for (Index k = first; k < stack.ends[static_cast<std::size_t>(i)]; ++k)
        for (Index o = 0; o < d_out; ++o)
          for (Index n = 0; n < N; ++n)
            F[static_cast<std::size_t>((l * R + k) * N + n)] +=
                Q[static_cast<std::size_t>(o * R + k)] *
                e[static_cast<std::size_t>(((i * L + l) * d_out + o) * N + n)];
    }
  return F;
}

}  // namespace mole::testing
