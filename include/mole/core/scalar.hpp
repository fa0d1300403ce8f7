#pragma once
// What functors shared by host and device need of a scalar: the MOLE_HD mark and elementary functions.
// The float versions are polynomials without branches, so that a loop over them becomes SIMD code.

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

/// Marks a function that a device compiler builds for host and device.
#if defined(__CUDACC__)
#  define MOLE_HD __host__ __device__
#else
#  define MOLE_HD
#endif

namespace mole {

MOLE_HD inline double exp(double x) { return std::exp(x); }

/// e^x with a relative error below 2e-7; 0 below -87.3, infinity above 88.7, NaN kept.
MOLE_HD inline float exp(float x) {
  constexpr float lowest = -87.33654f, highest = 88.72283f;
  // NaN becomes a number here, as its conversion to an integer is undefined; the last line brings it back.
  const float bounded = x > lowest ? (x < highest ? x : highest) : lowest;
  // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer without a library call.
  const float rounder = 12582912.0f;
  const float n = (bounded * 1.44269504f + rounder) - rounder;
  const float r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // 2^n in two factors: n reaches 128, whose power alone is not a float.
  const std::int32_t half = static_cast<std::int32_t>(n) / 2, rest = static_cast<std::int32_t>(n) - half;
  const float value = p * std::bit_cast<float>((half + 127) << 23) * std::bit_cast<float>((rest + 127) << 23);
  const float low = x < lowest ? 0.0f : value;
  const float high = x > highest ? std::numeric_limits<float>::infinity() : low;
  return x != x ? x : high;
}

MOLE_HD inline double tanh(double x) { return std::tanh(x); }

/// tanh with a relative error below 3e-7.
MOLE_HD inline float tanh(float x) {
  const float magnitude = x < 0 ? -x : x;
  const float t = exp(-2.0f * magnitude);
  const float far = (1.0f - t) / (1.0f + t);
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const float near = x + x * z * p;
  return magnitude < 0.625f ? near : (x < 0 ? -far : far);
}

/// 1 / (1 + e^-x) without overflow on either side.
template <class T>
MOLE_HD inline T sigmoid(T x) {
  const T t = exp(x < T(0) ? x : -x);
  return (x < T(0) ? t : T(1)) / (T(1) + t);
}

}  // namespace mole
