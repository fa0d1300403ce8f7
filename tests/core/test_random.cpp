// Philox against the answers published with Random123, and the distributions made of it.

#include <doctest/doctest.h>
#include <set>

#include "testing.hpp"

using namespace mole;

namespace {

using Block = std::array<std::uint32_t, 4>;

/// The published form: counter and key as 32-bit words.
Block answer(const Block& counter, std::uint32_t key0, std::uint32_t key1) {
  auto join = [](std::uint32_t low, std::uint32_t high) { return std::uint64_t{high} << 32 | low; };
  return philox({join(key0, key1), join(counter[2], counter[3])}, join(counter[0], counter[1]));
}

}  // namespace

TEST_CASE("Philox 4x32-10 gives Random123's known answers") {
  constexpr std::uint32_t ones = 0xffffffffu;
  CHECK(answer({0, 0, 0, 0}, 0, 0) == Block{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u});
  CHECK(answer({ones, ones, ones, ones}, ones, ones) ==
        Block{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu});
  CHECK(answer({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}, 0xa4093822u, 0x299f31d0u) ==
        Block{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u});
}

TEST_CASE("Uniform has the moments of a uniform distribution and stays in [0, 1)") {
  constexpr Index n = 400000;
  double total = 0, squares = 0, neighbours = 0, before = 0.5, lowest = 1, highest = 0;
  for (Index i = 0; i < n; ++i) {
    const double u = uniform({12, 34}, i);
    total += u, squares += u * u, neighbours += (u - 0.5) * (before - 0.5), before = u;
    lowest = std::min(lowest, u), highest = std::max(highest, u);
    if (i < 1000) CHECK(static_cast<double>(static_cast<float>(u)) == u);
  }
  const double mean = total / n, variance = squares / n - mean * mean,
               root = std::sqrt(static_cast<double>(n));
  CHECK(lowest >= 0);
  CHECK(highest < 1);
  CHECK(std::abs(mean - 0.5) <= 4 * std::sqrt(1.0 / 12) / root);
  CHECK(std::abs(variance - 1.0 / 12) <= 4 * std::sqrt(1.0 / 180) / root);
  CHECK(std::abs(neighbours / n) <= 4.0 / 12 / root);
}

TEST_CASE("Normal has the moments of a standard normal distribution") {
  constexpr Index n = 400000;
  double moments[5] = {};
  for (Index i = 0; i < n; ++i) {
    const double z = normal({12, 34}, i);
    REQUIRE(std::isfinite(z));
    double power = 1;
    for (int k = 1; k <= 4; ++k) moments[k] += (power *= z) / n;
  }
  const double root = std::sqrt(static_cast<double>(n));
  CHECK(std::abs(moments[1]) <= 4 / root);
  CHECK(std::abs(moments[2] - 1) <= 4 * std::sqrt(2.0) / root);
  CHECK(std::abs(moments[3]) <= 4 * std::sqrt(15.0) / root);
  CHECK(std::abs(moments[4] - 3) <= 4 * std::sqrt(96.0) / root);
}

TEST_CASE("Streams, seeds and positions all give different numbers") {
  std::set<double> seen;
  for (std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1} << 32})
    for (std::uint64_t stream : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1} << 40})
      for (Index i = 0; i < 100; ++i) seen.insert(normal({seed, stream}, i));
  CHECK(seen.size() == 900);
}

TEST_CASE("Many normal numbers drawn at once are those of their places, by few threads and by many") {
  for (const Index n : {0, 1, 2, 7, 40001}) {
    const auto numbers = mole::normal_numbers<float>(n, {3, 4}, 0.5);
    REQUIRE(numbers.size() == static_cast<std::size_t>(n));
    for (Index i = 0; i < n; ++i)
      REQUIRE(numbers[static_cast<std::size_t>(i)] == static_cast<float>(normal({3, 4}, i) * 0.5));
  }
}

TEST_CASE("A generator goes on where its two numbers say") {
  Generator generator{5};
  CHECK(generator.next().stream == 0);
  CHECK(generator.next().stream == 1);
  Generator resumed{generator.seed, generator.next_stream};
  CHECK(generator.next().stream == resumed.next().stream);
  CHECK(resumed.next().seed == 5);
}
