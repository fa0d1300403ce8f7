#pragma once
// What functors shared by host and device need of a scalar: the MOLE_HD mark, elementary functions, and the
// two-byte types bf16 and half, which are storage alone: whatever is computed with them is a float.
// The float functions are polynomials without branches, so that a loop over them becomes SIMD code.
//
// All of it survives -ffast-math and -Ofast. Compilers then take NaN and infinity for impossible, and any order of
// additions for as good as another: what depends on either is computed with the bits of numbers, as integers.

#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <numbers>
#include <type_traits>

/// Marks a function that a device compiler builds for host and device.
#if defined(__CUDACC__)
#  define MOLE_HD __host__ __device__
#else
#  define MOLE_HD
#endif

namespace mole {

namespace detail {

/// Whether flags let the compiler reorder sums or rule out NaN and infinity. Clang names no macro for the first alone:
/// it has a pragma.
inline constexpr bool fast_math =
#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__)
    true;
#elif defined(__FINITE_MATH_ONLY__)
    __FINITE_MATH_ONLY__ > 0;
#else
    false;
#endif

template <class T>
using BitsOf = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;

/// The bits of infinity.
template <class T>
inline constexpr BitsOf<T> infinity_bits = sizeof(T) == 8 ? static_cast<BitsOf<T>>(0x7ff0000000000000U)
                                                          : BitsOf<T>{0x7f800000U};

template <class T>
MOLE_HD BitsOf<T> magnitude_bits(const T& x) {
  return static_cast<BitsOf<T>>(std::bit_cast<BitsOf<T>>(x) << 1) >> 1;
}

}  // namespace detail

/// Whether x is NaN. By its bits, unlike std::isnan and x != x, which -ffinite-math-only makes false.
/// An integer is no NaN.
template <class T>
requires(std::is_arithmetic_v<T>) MOLE_HD bool is_nan(const T& x) {
  if constexpr (std::floating_point<T>)
    return detail::magnitude_bits(x) > detail::infinity_bits<T>;
  else
    return false;
}

/// Whether x is neither NaN nor infinite. By its bits, unlike std::isfinite, which -ffinite-math-only makes true.
template <std::floating_point T>
MOLE_HD bool is_finite(const T& x) {
  return detail::magnitude_bits(x) < detail::infinity_bits<T>;
}

namespace detail {

// The number of these bits. Where NaN and infinity are taken for impossible, the bits are hidden from the compiler,
// which would drop the branch that holds them.
template <class T>
MOLE_HD T special_number(BitsOf<T> bits) {
#if !defined(__CUDA_ARCH__)
  if constexpr (fast_math) asm("" : "+r"(bits));
#endif
  return std::bit_cast<T>(bits);
}

/// Infinity, under any flags.
template <class T>
MOLE_HD T infinity() {
  return special_number<T>(infinity_bits<T>);
}
/// Minus infinity: the start of a maximum, and the logit of what is masked.
template <class T>
MOLE_HD T minus_infinity() {
  return special_number<T>(infinity_bits<T> | ~(~BitsOf<T>{0} >> 1));
}
/// A quiet NaN, under any flags.
template <class T>
MOLE_HD T not_a_number() {
  return special_number<T>(infinity_bits<T> | infinity_bits<T> >> 1);
}

}  // namespace detail

// Templates, so that a program that opens this namespace still means the standard function by exp(double).
template <std::same_as<double> T>
MOLE_HD T exp(T x) {
  return std::exp(x);
}

namespace detail {

/// The length max(|v|, eps) of a vector v by the sum of its squares. NaN where that is not finite: an infinite length
/// would make v a zero, and a gate even, without a word.
template <std::floating_point T>
MOLE_HD T length_of(T squares, T eps) {
  const T length = is_finite(squares) ? std::sqrt(squares) : not_a_number<T>();
  return length < eps ? eps : length;
}

/// e^r for |r| up to ln 2 / 2.
inline float exp_near_zero(float r) {
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return p * r * r + r + 1.0f;
}

inline constexpr float exp_lowest = -87.33654f, exp_highest = 88.72283f;

/// exp() below where no flag can be trusted.
inline float exp_by_bits(float x) {
  const auto bits_of = [](float value) { return std::bit_cast<std::int32_t>(value); };
  const float bounded = x > exp_lowest ? (x < exp_highest ? x : exp_highest) : exp_lowest;
  // The last bits of the sum are the nearest integer: nothing is subtracted that could be left out.
  const float rounder = 12582912.0f;
  const std::int32_t k = bits_of(bounded * 1.44269504f + rounder) - bits_of(rounder);
  const float n = static_cast<float>(k);
  // The second part of ln 2 must come after the difference: a compiler that adds in any order does not see that 0 is
  // added here.
  const float most = bounded - n * 0.693359375f;
  const std::int32_t nothing = (k + 4096) >> 20;
  const float p = exp_near_zero(std::bit_cast<float>(bits_of(most) + nothing) + n * 2.12194440e-4f);
  // p 2^k by the exponent, as that is a normal number between the bounds. Beyond them, and for NaN, by integers, which
  // have the order of the numbers.
  const std::int32_t value = bits_of(p) + (k << 23), of_x = bits_of(x);
  const auto infinite = static_cast<std::int32_t>(infinity_bits<float>);
  const std::int32_t low =
      static_cast<std::uint32_t>(of_x) > std::bit_cast<std::uint32_t>(exp_lowest) ? 0 : value;
  const std::int32_t high = of_x > bits_of(exp_highest) ? infinite : low;
  return std::bit_cast<float>((of_x & 0x7fffffff) > infinite ? of_x : high);
}

}  // namespace detail

/// e^x with a relative error below 2e-7; 0 below -87.3, infinity above 88.7, NaN kept. Always inlined: in a program of
/// many loops a compiler would make calls of it, and a loop with a call is not vectorised.
template <std::same_as<float> T>
[[gnu::always_inline]] MOLE_HD inline T exp(T x) {
#if defined(__CUDA_ARCH__)
  return ::expf(x);
#else
#  if defined(__clang__)
#    pragma clang fp reassociate(off)
#  endif
  if constexpr (detail::fast_math) return detail::exp_by_bits(x);
  constexpr float lowest = detail::exp_lowest, highest = detail::exp_highest;
  // NaN becomes a number here, as its conversion to an integer is undefined; the last line brings it back.
  const float bounded = x > lowest ? (x < highest ? x : highest) : lowest;
  // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer without a library call.
  const float rounder = 12582912.0f;
  const float n = (bounded * 1.44269504f + rounder) - rounder;
  const float p = detail::exp_near_zero((bounded - n * 0.693359375f) + n * 2.12194440e-4f);
  // 2^n in two factors: n reaches 128, whose power alone is not a float.
  const std::int32_t part = static_cast<std::int32_t>(n) / 2, rest = static_cast<std::int32_t>(n) - part;
  const float value = p * std::bit_cast<float>((part + 127) << 23) * std::bit_cast<float>((rest + 127) << 23);
  const float low = x < lowest ? 0.0f : value;
  const float high = x > highest ? std::numeric_limits<float>::infinity() : low;
  return x != x ? x : high;
#endif
}

template <std::same_as<double> T>
MOLE_HD T tanh(T x) {
  return std::tanh(x);
}

namespace detail {

/// `first` where `which` is true, else `second`. By bits: of two results of which one is used, a compiler would compute
/// each in a branch of its own, and a loop with branches that divide is not vectorised.
[[gnu::always_inline]] MOLE_HD inline float either(bool which, float first, float second) {
  const std::uint32_t mask = which ? ~0U : 0U;
  return std::bit_cast<float>((std::bit_cast<std::uint32_t>(first) & mask) |
                              (std::bit_cast<std::uint32_t>(second) & ~mask));
}

}  // namespace detail

/// tanh with a relative error below 3e-7.
template <std::same_as<float> T>
[[gnu::always_inline]] MOLE_HD inline T tanh(T x) {
  const std::uint32_t sign = std::bit_cast<std::uint32_t>(x) & 0x80000000U;
  const float magnitude = std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) ^ sign);
  const float t = exp(-2.0f * magnitude);
  const float far = (1.0f - t) / (1.0f + t);
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const float near = x + x * z * p;
  return detail::either(magnitude < 0.625f, near,
                        std::bit_cast<float>(std::bit_cast<std::uint32_t>(far) | sign));
}

/// 1 / (1 + e^-x) without overflow on either side.
template <class T>
[[gnu::always_inline]] MOLE_HD inline T sigmoid(T x) {
  const T t = exp(x < T(0) ? x : -x);
  return (x < T(0) ? t : T(1)) / (T(1) + t);
}

/// Phi(x), the normal distribution function.
template <std::same_as<double> T>
MOLE_HD T normal_cdf(T x) {
  return 0.5 * std::erfc(-x * (1 / std::numbers::sqrt2));
}

/// Phi(x) with an absolute error below 3e-7; the tail's relative error is below 1e-6 where Phi(x) is above 1e-7.
template <std::same_as<float> T>
[[gnu::always_inline]] MOLE_HD inline T normal_cdf(T x) {
#if defined(__CUDA_ARCH__)
  return 0.5f * ::erfcf(-x * 0.70710678118654752440f);
#else
  // Phi(-|x|) = exp(-x^2 / 2) t p(t) / 2 with t = 1 / (1 + z / 2), z = |x| / sqrt 2: a polynomial fit of
  // exp(z^2) erfc(z) / t.
  const float magnitude = std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) & 0x7fffffffU);
  const float t = 1.0f / (1.0f + 0.35355339059f * magnitude);
  float p = -0.029638753651f;
  p = p * t + 0.142796721621f;
  p = p * t - 0.244655363339f;
  p = p * t + 0.140242041718f;
  p = p * t - 0.014145910465f;
  p = p * t + 0.101696087553f;
  p = p * t + 0.121462740882f;
  p = p * t + 0.141199902435f;
  p = p * t + 0.141042511382f;
  const float tail = exp(-0.5f * x * x) * (t * p);
  return (x < 0.0f ? 0.0f : 1.0f) + (x < 0.0f ? tail : -tail);
#endif
}

namespace detail {

// A float to be rounded once more. Rounding to odd on the way from double keeps the second rounding, to half
// or bfloat16, the one that the double itself would have had.
MOLE_HD inline float narrow_to_odd(float value) { return value; }
MOLE_HD inline float narrow_to_odd(double value) {
#if defined(__CUDA_ARCH__)
  const float cut = __double2float_rz(value);
  return static_cast<double>(cut) == value ? cut : __uint_as_float(__float_as_uint(cut) | 1U);
#else
  const float nearest = static_cast<float>(value);
  const double back = nearest;
  if (is_nan(value) || std::bit_cast<std::uint64_t>(back) == std::bit_cast<std::uint64_t>(value))
    return nearest;
  const auto bits = std::bit_cast<std::uint32_t>(nearest);
  if (bits & 1U) return nearest;
  // The neighbour on the other side of the value, which is odd.
  return std::bit_cast<float>(magnitude_bits(back) < magnitude_bits(value) ? bits + 1U : bits - 1U);
#endif
}

}  // namespace detail

/// IEEE half, as its bits, nearest to the value (ties to even). Beyond its range: infinity. NaN stays NaN.
template <std::floating_point T>
MOLE_HD std::uint16_t half_bits(T value) {
#if defined(__CUDA_ARCH__)
  std::uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(detail::narrow_to_odd(value)));
  return bits;
#else
  const auto bits = std::bit_cast<std::uint32_t>(detail::narrow_to_odd(value));
  const std::uint32_t sign = (bits >> 16) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  std::uint32_t result;
  if (magnitude > 0x7f800000U) {
    result = 0x7e00U | ((magnitude >> 13) & 0x3ffU);
  } else if (magnitude >= 0x477ff000U) {
    result = 0x7c00U;
  } else if (magnitude >= 0x38800000U) {
    result = (magnitude + 0x0fffU + ((magnitude >> 13) & 1U) - 0x38000000U) >> 13;
  } else {
    // The last bit of 0.5f weighs as much as that of a subnormal half: the addition rounds.
    result = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3f000000U;
  }
  return static_cast<std::uint16_t>(sign | result);
#endif
}

/// The value of an IEEE half given as its bits.
MOLE_HD inline float half_value(std::uint16_t bits) {
#if defined(__CUDA_ARCH__)
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
#else
  const std::uint32_t sign = (bits & 0x8000U) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1fU;
  const std::uint32_t fraction = bits & 0x3ffU;
  if (exponent == 0x1fU) return std::bit_cast<float>(sign | 0x7f800000U | (fraction << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112U) << 23) | (fraction << 13));
  const float magnitude = static_cast<float>(fraction) * 0x1p-24F;
  return sign ? -magnitude : magnitude;
#endif
}

/// bfloat16, as its bits, nearest to the value (ties to even). Beyond its range: infinity. NaN stays NaN.
template <std::floating_point T>
MOLE_HD std::uint16_t bfloat16_bits(T value) {
#if defined(__CUDA_ARCH__)
  std::uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(detail::narrow_to_odd(value)));
  return bits;
#else
  const auto bits = std::bit_cast<std::uint32_t>(detail::narrow_to_odd(value));
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
#endif
}

/// The value of a bfloat16 given as its bits.
MOLE_HD inline float bfloat16_value(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

namespace detail {

/// What any number is rounded from: whole numbers up to 2^53 are exact in double.
template <class U>
using RoundedFrom = std::conditional_t<std::is_same_v<U, float>, float, double>;

}  // namespace detail

/// A bfloat16 in memory: 8 bits of precision, float's range. Made from any number, rounded to nearest even
/// once; read as a float, so an expression of bf16 is one of floats.
struct bf16 {
  std::uint16_t bits;

  bf16() = default;
  template <class U>
  requires std::is_arithmetic_v<U> MOLE_HD bf16(U value)
      : bits(bfloat16_bits(static_cast<detail::RoundedFrom<U>>(value))) {}
  MOLE_HD operator float() const { return bfloat16_value(bits); }
};

/// An IEEE half in memory: 11 bits of precision, at most 65504; beyond that infinity. Else as bf16.
struct half {
  std::uint16_t bits;

  half() = default;
  template <class U>
  requires std::is_arithmetic_v<U> MOLE_HD half(U value)
      : bits(half_bits(static_cast<detail::RoundedFrom<U>>(value))) {}
  MOLE_HD operator float() const { return half_value(bits); }
};

/// The scalars that are storage alone.
template <class T>
concept Narrow = std::same_as<T, bf16> || std::same_as<T, half>;

/// What a tensor may hold, beside indices.
template <class T>
concept Scalar = std::same_as<T, float> || std::same_as<T, double> || Narrow<T>;

namespace detail {

// Of what is no scalar, double: the error is the one that Tensor gives, and not another hundred below it.
template <class T>
struct ComputeWith {
  using type = double;
};
template <class T>
requires Scalar<T> || std::same_as<T, std::int64_t>
struct ComputeWith<T> {
  using type = T;
};
template <Narrow T>
struct ComputeWith<T> {
  using type = float;
};

}  // namespace detail

/// What numbers stored as T are computed and accumulated in: float for bf16 and half, else T itself.
template <class T>
using Compute = typename detail::ComputeWith<T>::type;

}  // namespace mole
