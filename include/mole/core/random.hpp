#pragma once
// Counter-based random numbers (Philox 4x32-10; Salmon et al., SC 2011): number i of a stream is a pure
// function of (seed, stream, i), so it is the same on any backend and any number of threads.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <vector>

#include <mole/core/omp.hpp>
#include <mole/core/scalar.hpp>
#include <mole/core/shape.hpp>

namespace mole {

/// Identifies one independent sequence of random numbers.
struct RandomStream {
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;
};

/// Hands out streams: one for each random tensor or dropout call. Saving the two numbers saves its state.
struct Generator {
  std::uint64_t seed = 0;
  std::uint64_t next_stream = 0;

  RandomStream next() { return {seed, next_stream++}; }
};

/// Four 32-bit numbers for block `block` of a stream.
MOLE_HD inline std::array<std::uint32_t, 4> philox(RandomStream stream, std::uint64_t block) {
  constexpr std::uint32_t multiplier0 = 0xD2511F53u, multiplier1 = 0xCD9E8D57u;
  constexpr std::uint32_t weyl0 = 0x9E3779B9u, weyl1 = 0xBB67AE85u;
  auto low = [](std::uint64_t v) { return static_cast<std::uint32_t>(v); };
  auto high = [](std::uint64_t v) { return static_cast<std::uint32_t>(v >> 32); };
  std::array<std::uint32_t, 4> c{low(block), high(block), low(stream.stream), high(stream.stream)};
  std::uint32_t k0 = low(stream.seed), k1 = high(stream.seed);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{multiplier0} * c[0];
    const std::uint64_t p1 = std::uint64_t{multiplier1} * c[2];
    c = {high(p1) ^ c[1] ^ k0, low(p1), high(p0) ^ c[3] ^ k1, low(p0)};
    k0 += weyl0;
    k1 += weyl1;
  }
  return c;
}

/// Number i of the stream, uniform in [0, 1), in steps of 2^-24 (exact in float).
MOLE_HD inline double uniform(RandomStream stream, Index i) {
  const auto block = philox(stream, static_cast<std::uint64_t>(i) / 4);
  return static_cast<double>(block[static_cast<std::size_t>(i % 4)] >> 8) * 0x1p-24;
}

/// One of the two standard normal numbers that a block of a stream gives (Box-Muller), computed in double.
inline double normal_of(const std::array<std::uint32_t, 4>& block, std::size_t which) {
  const double u = (static_cast<double>(block[2 * which]) + 0.5) * 0x1p-32;
  const double v = static_cast<double>(block[2 * which + 1]) * 0x1p-32;
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

/// Number i of the stream, standard normal.
inline double normal(RandomStream stream, Index i) {
  return normal_of(philox(stream, static_cast<std::uint64_t>(i) / 2), static_cast<std::size_t>(i % 2));
}

/// The first n normal numbers of the stream times `deviation`, drawn by all threads: each depends on its place alone.
template <class T>
std::vector<T> normal_numbers(Index n, RandomStream stream, double deviation = 1) {
  std::vector<T> numbers(static_cast<std::size_t>(n));
  MOLE_OMP("omp parallel for if (n > 16384)")
  for (Index pair = 0; pair < (n + 1) / 2; ++pair) {
    const auto block = philox(stream, static_cast<std::uint64_t>(pair));
    for (Index i = 2 * pair; i < std::min(n, 2 * pair + 2); ++i)
      numbers[static_cast<std::size_t>(i)] =
          static_cast<T>(normal_of(block, static_cast<std::size_t>(i % 2)) * deviation);
  }
  return numbers;
}

}  // namespace mole
