#pragma once
// What the suites share: seeded tensors, comparison with a reference in double, the texts of errors.

#include <cmath>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>
#include <vector>

#if defined(MOLE_TEST_CUDA)
#  include <mole/cuda.cuh>
#else
#  include <mole/autodiff/tensor.hpp>
#  include <mole/backends/cpu.hpp>
#endif

namespace mole::testing {

/// The backend under test: one source, compiled once for each.
#if defined(MOLE_TEST_CUDA)
using Device = Cuda;
#else
using Device = Cpu;
#endif

/// Rounding of some ten operations in T, relative to max(1, |value|).
template <class T>
constexpr double tight = std::same_as<T, float> ? 2e-6 : 4e-15;

/// Standard normal numbers, the same for any scalar up to its rounding.
template <class T, class B = Device>
Tensor<T, B> noise(const Shape& shape, std::uint64_t stream = 0) {
  return Tensor<T, B>::randn(shape, {4711, stream});
}

template <class T, class B>
std::vector<double> doubles(const Tensor<T, B>& x) {
  const auto values = x.to_host();
  return {values.begin(), values.end()};
}

template <class T>
std::vector<double> doubles(const std::vector<T>& values) {
  return {values.begin(), values.end()};
}

/// Largest |a - b| / max(1, |b|); infinity where the sizes differ or only one of two is NaN.
inline double worst_error(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) continue;
    const double error = std::abs(a[i] - b[i]) / std::max(1.0, std::abs(b[i]));
    worst = std::isfinite(error) ? std::max(worst, error) : std::numeric_limits<double>::infinity();
  }
  return worst;
}

template <class T, class B>
double worst_error(const Tensor<T, B>& a, const std::vector<double>& b) {
  return worst_error(doubles(a), b);
}

/// The parts that the message of the E thrown by f lacks; "nothing thrown" if f returns.
template <class E, class F>
std::string lacks(F f, std::initializer_list<const char*> parts) {
  try {
    f();
  } catch (const E& error) {
    const std::string text = error.what();
    std::string missing;
    for (const char* part : parts)
      if (text.find(part) == std::string::npos)
        missing += std::string("`") + part + "` is not in `" + text + "` ";
    return missing;
  }
  return "nothing thrown";
}

}  // namespace mole::testing
