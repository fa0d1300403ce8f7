// Group norm of images large or many enough for several blocks, against the processor's in double.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include <mole/autodiff/backward.hpp>
#include <mole/cuda.cuh>
#include <mole/ops/group_norm.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

struct Image {
  Index images, height, width, channels, groups;
  double offset = 0;  ///< of all numbers
};

template <class To, class B, class From, class From_B>
Tensor<To, B> as(const Tensor<From, From_B>& x) {
  const auto values = doubles(x);
  return Tensor<To, B>::from(x.shape(), std::vector<To>(values.begin(), values.end()));
}

/// y and dx, of numbers that T holds, and where w and c are trained dw and dc; `twice`: dx is added to what an earlier
/// reading of x has left.
template <class T, class B, class Rounded>
std::vector<std::vector<double>> run(const Image& i, bool twice, bool trained) {
  const Shape shape{i.images, i.height, i.width, i.channels};
  const auto x = as<T, B>(as<Rounded, Cpu>(noise<double, Cpu>(shape, 1) + i.offset)).set_requires_grad();
  auto w = as<T, B>(noise<Rounded, Cpu>({i.channels}, 2)), c = as<T, B>(noise<Rounded, Cpu>({i.channels}, 3));
  const auto G = as<T, B>(noise<Rounded, Cpu>(shape, 4));
  if (trained) w.set_requires_grad(), c.set_requires_grad();
  const auto y = group_norm(x, i.groups, w, c);
  if (twice)
    backward(sum(y * G) + sum(x * G));
  else
    backward(y, G);
  if (!trained) return {doubles(y), doubles(x.grad())};
  return {doubles(y), doubles(x.grad()), doubles(w.grad()), doubles(c.grad())};
}

/// The largest |a - b| as a share of the largest |b|.
double share_of_largest(const std::vector<double>& a, const std::vector<double>& b) {
  double worst = 0, largest = 1e-300;
  for (std::size_t i = 0; i < a.size(); ++i) {
    worst = std::isnan(a[i]) ? INFINITY : std::max(worst, std::abs(a[i] - b[i]));
    largest = std::max(largest, std::abs(b[i]));
  }
  return worst / largest;
}

const std::vector<Image> images{{2, 64, 64, 320, 32},    {1, 33, 35, 640, 32},  {3, 70, 41, 128, 32, 10},
                                {1, 100, 100, 8, 2, -3}, {2, 24, 24, 2048, 32}, {1, 130, 17, 24, 3},
                                {256, 16, 16, 64, 8},    {300, 8, 8, 80, 8},    {130, 33, 31, 32, 8, 2}};

}  // namespace

TEST_CASE_TEMPLATE("Group norm shared by blocks is that of the processor, and its gradient", T, float,
                   mole::bf16, mole::half) {
  const double step = std::is_same_v<T, float> ? 1e-6 : std::is_same_v<T, mole::bf16> ? 0x1p-8 : 0x1p-11;
  for (const auto& i : images)
    for (const bool twice : {false, true})
      for (const bool trained : {false, true}) {
        CAPTURE(message(i.images, i.height, i.width, i.channels, i.groups, twice, trained));
        const GroupNormForward<T> sizes{
            .images = i.images, .pixels = i.height * i.width, .channels = i.channels, .groups = i.groups};
        CHECK(detail::group_norm_fits<T>(sizes, {}) == (i.channels <= 256 * detail::Pack<T>::size));
        const auto found = run<T, Cuda, T>(i, twice, trained),
                   expected = run<double, Cpu, T>(i, twice, trained);
        // The deviation's error grows with the offset's share of it; dx is read, and added to, as it is rounded.
        CHECK(share_of_largest(found[0], expected[0]) <= 2 * step);
        for (std::size_t k = 1; k < found.size(); ++k) {
          CAPTURE(k);
          CHECK(share_of_largest(found[k], expected[k]) <= 4 * step);
        }
        CHECK(run<T, Cuda, T>(i, twice, trained) == found);
      }
}
