#pragma once
// What the compose suites share: small random LoRAs, and the change of a LoRA by plain loops.

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <mole/compose/composition.hpp>
#include <mole/core/random.hpp>
#include <testing.hpp>

namespace compose_test {

using mole::Index;
using Numbers = std::vector<double>;

inline constexpr Index d_in = 12, d_out = 10;

inline Numbers noise(Index n, std::uint64_t stream) {
  Numbers values;
  for (Index i = 0; i < n; ++i) values.push_back(mole::normal({99, stream}, i));
  return values;
}

inline mole::LoraFactors lora(std::uint64_t stream, Index rank = 4, double scale = 2, Index in = d_in,
                              Index out = d_out) {
  return {rank, in, out, scale, noise(rank * in, 2 * stream), noise(out * rank, 2 * stream + 1)};
}

inline mole::LoraSet set_of(const std::string& name, const std::vector<std::string>& slots,
                            const mole::LoraFactors& factors) {
  return {name, "digest of " + name, slots, [factors](const std::string&) { return factors; }};
}

/// Adapters e0, e1, .. of the slot "layer".
inline std::vector<mole::LoraSet> sets_of(const std::vector<mole::LoraFactors>& loras) {
  std::vector<mole::LoraSet> sets;
  for (std::size_t i = 0; i < loras.size(); ++i)
    sets.push_back(set_of("e" + std::to_string(i), {"layer"}, loras[i]));
  return sets;
}

/// s B A, element by element.
inline Numbers change(const mole::LoraFactors& f) {
  Numbers d;
  for (Index o = 0; o < f.d_out; ++o)
    for (Index i = 0; i < f.d_in; ++i) {
      double sum = 0;
      for (Index r = 0; r < f.rank; ++r)
        sum += f.B[static_cast<std::size_t>(o * f.rank + r)] * f.A[static_cast<std::size_t>(r * f.d_in + i)];
      d.push_back(f.scale * sum);
    }
  return d;
}

inline Numbers weighted(const std::vector<Numbers>& tensors, const Numbers& weights) {
  Numbers sum(tensors.front().size());
  for (std::size_t j = 0; j < sum.size(); ++j)
    for (std::size_t i = 0; i < tensors.size(); ++i) sum[j] += weights[i] * tensors[i][j];
  return sum;
}

inline double error(const Numbers& found, const Numbers& expected) {
  return mole::testing::worst_error(found, expected);
}

}  // namespace compose_test
