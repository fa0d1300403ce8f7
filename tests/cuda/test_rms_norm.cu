// RMS norm by a block a row, against its formula in double.

#include <cmath>
#include <limits>
#include <vector>

#include <doctest/doctest.h>

#include <mole/cuda.cuh>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

template <class To, class From, class B>
std::vector<To> as(const Tensor<From, B>& x) {
  const auto values = x.to_host();
  return std::vector<To>(values.begin(), values.end());
}

/// sum, y and size by the kernel, of what was not written before; without d where `added` is not set.
template <class T>
struct Found {
  std::vector<double> sum, y, size;

  Found(Index rows, Index n, bool added) {
    using V = Compute<T>;
    const auto x = noise<T, Cuda>({rows, n}, 1), d = noise<T, Cuda>({rows, n}, 2), w = noise<T, Cuda>({n}, 3);
    const T nan = T(std::numeric_limits<V>::quiet_NaN());
    const auto to_sum = Tensor<T, Cuda>::full({rows, n}, nan), to_y = Tensor<T, Cuda>::full({rows, n}, nan);
    const auto to_size = Tensor<V, Cuda>::full({rows}, V(nan));
    REQUIRE(Cuda::rms_norm_forward(RmsNormForward<T>{x.data(), added ? d.data() : nullptr, w.data(),
                                                     added ? to_sum.data() : nullptr, to_y.data(),
                                                     to_size.data(), rows, n, V(1e-6)}));
    sum = as<double>(to_sum);
    y = as<double>(to_y);
    size = as<double>(to_size);
  }
};

template <class T>
bool fits(Index n) {
  const auto x = Tensor<T, Cuda>::zeros({1, n}), y = Tensor<T, Cuda>::zeros({1, n});
  const auto size = Tensor<Compute<T>, Cuda>::zeros({1});
  return Cuda::rms_norm_forward(
      RmsNormForward<T>{x.data(), nullptr, x.data(), nullptr, y.data(), size.data(), 1, n, Compute<T>(1)});
}

}  // namespace

TEST_CASE_TEMPLATE("RMS norm by a block a row is its formula, of a sum too, with the same bits every time", T,
                   float, double, mole::bf16, mole::half) {
  const double step = std::is_same_v<T, double>       ? 1e-15
                      : std::is_same_v<T, float>      ? 1e-7
                      : std::is_same_v<T, mole::bf16> ? 0x1p-8
                                                      : 0x1p-11;
  for (const Index rows : {1, 3, 200})
    for (const Index n : {8, 64, 520, 4096, 8192})
      for (const bool added : {false, true}) {
        CAPTURE(message(rows, n, added));
        const Found<T> found(rows, n, added);
        const auto x = as<double>(noise<T, Cpu>({rows, n}, 1)), d = as<double>(noise<T, Cpu>({rows, n}, 2)),
                   w = as<double>(noise<T, Cpu>({n}, 3));
        double worst = 0;
        for (Index r = 0; r < rows; ++r) {
          std::vector<double> row;
          double squares = 0;
          for (Index j = 0; j < n; ++j) {
            const auto at = static_cast<std::size_t>(r * n + j);
            const double v =
                added
                    ? static_cast<double>(T(static_cast<Compute<T>>(x[at]) + static_cast<Compute<T>>(d[at])))
                    : x[at];
            if (added) REQUIRE(found.sum[at] == v);
            row.push_back(v);
            squares += v * v;
          }
          const double size = std::sqrt(squares / static_cast<double>(n) + 1e-6);
          CHECK(std::abs(found.size[static_cast<std::size_t>(r)] / size - 1) <=
                20 * (sizeof(Compute<T>) == 8 ? 1e-15 : 1e-7));
          for (Index j = 0; j < n; ++j) {
            const double y = row[static_cast<std::size_t>(j)] / size * w[static_cast<std::size_t>(j)];
            const double error = std::abs(found.y[static_cast<std::size_t>(r * n + j)] - y);
            worst = std::isnan(error) ? INFINITY : std::max(worst, error / (std::abs(y) + 1e-3));
          }
        }
        CHECK(worst <= (sizeof(T) == 2 ? 1 : 20) * step);
        const Found<T> again(rows, n, added);
        CHECK(again.y == found.y);
        CHECK(again.size == found.size);
      }
}

TEST_CASE_TEMPLATE(
    "Rows that are no whole packs, or too long for a block's registers, are left to row functors", T, float,
    double, mole::bf16) {
  const Index pack = detail::Pack<T>::size;
  CHECK(fits<T>(pack));
  CHECK(fits<T>(4096 * pack));
  CHECK_FALSE(fits<T>(4097 * pack));
  CHECK_FALSE(fits<T>(pack + 1));
}
