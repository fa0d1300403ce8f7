// exp, tanh, sigmoid and the normal distribution function in float against double, over the whole range of floats.

#include <doctest/doctest.h>
#include <bit>
#include <numbers>

#include "testing.hpp"

using namespace mole;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity(),
                not_a_number = std::numeric_limits<float>::quiet_NaN();

/// f for every 997th float in [low, high], both positive, and its negative: a step is far below an
/// exponent's.
template <class F>
void for_floats(float low, float high, F f) {
  for (auto bits = std::bit_cast<std::uint32_t>(low); bits <= std::bit_cast<std::uint32_t>(high);
       bits += 997) {
    f(std::bit_cast<float>(bits));
    f(-std::bit_cast<float>(bits));
  }
}

double relative(float got, double expected) { return std::abs(static_cast<double>(got) / expected - 1); }

}  // namespace

TEST_CASE("exp(float) is within 2e-7 of e^x wherever that is a normal float") {
  double worst = 0;
  for_floats(0.0f, 88.72283f, [&](float x) {
    if (x > -87.3365f) worst = std::max(worst, relative(mole::exp(x), std::exp(static_cast<double>(x))));
  });
  CHECK(worst <= 2e-7);
}

TEST_CASE("exp(float) ends in 0 and infinity, keeps NaN, and is 1 at 0") {
  CHECK(mole::exp(0.0f) == 1.0f);
  CHECK(mole::exp(-0.0f) == 1.0f);
  CHECK(mole::exp(std::numeric_limits<float>::denorm_min()) == 1.0f);
  CHECK(std::isfinite(mole::exp(88.72283f)));
  CHECK(std::isnan(mole::exp(not_a_number)));
  CHECK(std::isnan(mole::exp(-not_a_number)));
  bool up = true, down = true;
  for_floats(88.73f, std::numeric_limits<float>::max(), [&](float x) {
    if (x > 0) up = up && mole::exp(x) == infinity;
    if (x < 0) down = down && mole::exp(x) == 0.0f;
  });
  CHECK(up);
  CHECK(down);
  CHECK(mole::exp(infinity) == infinity);
  CHECK(mole::exp(-infinity) == 0.0f);
}

TEST_CASE("exp(float) never falls as x grows") {
  bool rises = true;
  float before = 0;
  for (float x = -90; x < 89; x += 1.0f / 128) {
    rises = rises && mole::exp(x) >= before;
    before = mole::exp(x);
  }
  CHECK(rises);
}

TEST_CASE("tanh(float) is within 3e-7 of tanh over all floats, subnormals too") {
  double worst = 0;
  bool odd = true;
  for_floats(std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::max(), [&](float x) {
    worst = std::max(worst, relative(mole::tanh(x), std::tanh(static_cast<double>(x))));
    odd = odd && mole::tanh(-x) == -mole::tanh(x);
  });
  CHECK(worst <= 3e-7);
  CHECK(odd);
  CHECK(mole::tanh(infinity) == 1.0f);
  CHECK(mole::tanh(-infinity) == -1.0f);
  CHECK(mole::tanh(0.0f) == 0.0f);
  CHECK(std::isnan(mole::tanh(not_a_number)));
}

TEST_CASE("sigmoid(float) is within 5e-7 of its formula and never overflows") {
  double worst = 0;
  for_floats(1e-30f, 87.0f, [&](float x) {
    worst = std::max(worst, relative(mole::sigmoid(x), 1 / (1 + std::exp(-static_cast<double>(x)))));
  });
  CHECK(worst <= 5e-7);
  for (const float x : {200.0f, std::numeric_limits<float>::max(), infinity}) {
    CHECK(mole::sigmoid(x) == 1.0f);
    CHECK(mole::sigmoid(-x) == 0.0f);
  }
  CHECK(std::isnan(mole::sigmoid(not_a_number)));
}

TEST_CASE(
    "normal_cdf(float) is within 3e-7 of the normal distribution function, and its tail within a millionth of itself") {
  double worst = 0, tail = 0;
  for_floats(1e-30f, 40.0f, [&](float x) {
    const double expected = std::erfc(-static_cast<double>(x) / std::numbers::sqrt2) / 2;
    worst = std::max(worst, std::abs(static_cast<double>(mole::normal_cdf(x)) - expected));
    if (expected > 1e-7) tail = std::max(tail, relative(mole::normal_cdf(x), expected));
  });
  CHECK(worst <= 3e-7);
  CHECK(tail <= 1e-6);
  for (const float x : {50.0f, std::numeric_limits<float>::max(), infinity}) {
    CHECK(mole::normal_cdf(x) == 1.0f);
    CHECK(mole::normal_cdf(-x) == 0.0f);
  }
  CHECK(std::isnan(mole::normal_cdf(not_a_number)));
}

TEST_CASE("In double they are the standard library's") {
  for (const double x : {-800.0, -1.0, 0.0, 1e-300, 0.3, 40.0, 710.0}) {
    CHECK(mole::exp(x) == std::exp(x));
    CHECK(mole::tanh(x) == std::tanh(x));
    CHECK(mole::normal_cdf(x) == 0.5 * std::erfc(-x * (1 / std::numbers::sqrt2)));
    CHECK(mole::sigmoid(x) == doctest::Approx(1 / (1 + std::exp(-x))));
  }
}

namespace {

/// A two-byte format stated anew: the values of its patterns, taken from the definition of the format.
struct Format {
  int fraction_bits, exponent_bits;

  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  std::uint32_t infinity_bits() const { return ((1u << exponent_bits) - 1) << fraction_bits; }
  /// Of a pattern without sign, infinity's included: as if the exponents went on.
  double value(std::uint32_t bits) const {
    const auto exponent = static_cast<int>(bits >> fraction_bits);
    const auto fraction = static_cast<double>(bits & ((1u << fraction_bits) - 1));
    const double one = std::ldexp(1.0, fraction_bits);
    return exponent == 0 ? std::ldexp(fraction / one, 1 - bias())
                         : std::ldexp(1 + fraction / one, exponent - bias());
  }
};

template <class T>
constexpr Format format = std::is_same_v<T, bf16> ? Format{7, 8} : Format{10, 5};

template <class T>
T from_bits(std::uint32_t bits) {
  return std::bit_cast<T>(static_cast<std::uint16_t>(bits));
}

template <class T>
std::uint32_t to_bits(T value) {
  return std::bit_cast<std::uint16_t>(value);
}

}  // namespace

TEST_CASE_TEMPLATE(
    "Bf16 and half: each of the 65536 patterns has the value of its format and comes back from it", T, bf16,
    mole::half) {
  static_assert(sizeof(T) == 2 && std::is_trivially_copyable_v<T> && std::is_trivial_v<T>);
  bool values = true, back = true, nans = true;
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = from_bits<T>(bits);
    const std::uint32_t magnitude = bits & 0x7fff;
    if (magnitude > format<T>.infinity_bits()) {
      const float again = T(value);
      nans = nans && std::isnan(value) && std::isnan(again);
      continue;
    }
    const double expected = magnitude == format<T>.infinity_bits() ? infinity : format<T>.value(magnitude);
    values = values && static_cast<double>(value) == (bits & 0x8000 ? -expected : expected);
    back = back && to_bits(T(value)) == bits && to_bits(T(static_cast<double>(value))) == bits;
  }
  CHECK(values);
  CHECK(back);
  CHECK(nans);
}

TEST_CASE_TEMPLATE(
    "Bf16 and half: what lies between two neighbours goes to the nearer one, the middle to the even one", T,
    bf16, mole::half) {
  bool even = true, nearer = true;
  // The last pair is the largest number and infinity: its middle, as if exponents went on, is where overflow
  // begins. The first ones are subnormal.
  for (std::uint32_t low = 0; low < format<T>.infinity_bits(); ++low) {
    const double middle = (format<T>.value(low) + format<T>.value(low + 1)) / 2;
    for (const bool negative : {false, true}) {
      const double sign = negative ? -1 : 1;
      const std::uint32_t mark = negative ? 0x8000 : 0;
      even = even && to_bits(T(sign * middle)) == (mark | (low % 2 ? low + 1 : low));
      nearer = nearer && to_bits(T(sign * std::nextafter(middle, 0.0))) == (mark | low) &&
               to_bits(T(sign * std::nextafter(middle, 1e300))) == (mark | (low + 1));
      const auto single = static_cast<float>(middle);
      if (static_cast<double>(single) != middle) continue;
      even = even && to_bits(T(static_cast<float>(sign) * single)) == (mark | (low % 2 ? low + 1 : low));
      nearer = nearer && to_bits(T(static_cast<float>(sign) * std::nextafter(single, 0.0f))) == (mark | low);
    }
  }
  CHECK(even);
  CHECK(nearer);
}

TEST_CASE_TEMPLATE("Bf16 and half: overflow is infinity, NaN stays NaN, an underflow keeps its sign", T, bf16,
                   mole::half) {
  CHECK(T(std::numeric_limits<float>::max()) == infinity);
  CHECK(T(-1e300) == -infinity);
  CHECK(T(infinity) == infinity);
  for (const std::uint32_t bits : {0x7fc00000u, 0x7f800001u, 0xffffffffu})
    CHECK(std::isnan(float{T(std::bit_cast<float>(bits))}));
  CHECK(to_bits(T(-1e-300)) == 0x8000);
  CHECK(to_bits(T(std::numeric_limits<float>::denorm_min())) == 0);
}

TEST_CASE("An expression of bf16 or half is one of floats, and so is what they are computed in") {
  static_assert(std::is_same_v<decltype(bf16(1) * bf16(1)), float>);
  static_assert(std::is_same_v<decltype(-mole::half(1)), float>);
  static_assert(std::is_same_v<Compute<bf16>, float> && std::is_same_v<Compute<mole::half>, float>);
  static_assert(std::is_same_v<Compute<float>, float> && std::is_same_v<Compute<double>, double>);
  // 1 + 2^-12 is neither a bf16 nor a half.
  CHECK(bf16(1) + bf16(0x1p-12) == 1 + 0x1p-12f);
  CHECK(mole::half(1) + mole::half(0x1p-12) == 1 + 0x1p-12f);
}

TEST_CASE_TEMPLATE("NaN and infinity are told by their bits", T, float, double) {
  const T nan = std::numeric_limits<T>::quiet_NaN(), infinite = std::numeric_limits<T>::infinity();
  for (const T number : {T(0), -T(0), T(1), std::numeric_limits<T>::max(),
                         std::numeric_limits<T>::denorm_min(), std::numeric_limits<T>::lowest()}) {
    CHECK(!mole::is_nan(number));
    CHECK(mole::is_finite(number));
  }
  for (const T value : {nan, -nan, std::numeric_limits<T>::signaling_NaN()}) {
    CHECK(mole::is_nan(value));
    CHECK(!mole::is_finite(value));
  }
  for (const T value : {infinite, -infinite}) {
    CHECK(!mole::is_nan(value));
    CHECK(!mole::is_finite(value));
  }
  CHECK(mole::detail::infinity<T>() == infinite);
  CHECK(mole::detail::minus_infinity<T>() == -infinite);
  CHECK(mole::is_nan(mole::detail::not_a_number<T>()));
}
