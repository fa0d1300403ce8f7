#include <doctest/doctest.h>

#include <utility>

#include <mole/mole.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

/// One output of a convolution by its formula.
template <class T>
double at(const Tensor<T, Device>& x, const Tensor<T, Device>& W, const ConvOptions& options, Index s,
          Index h, Index w, Index o) {
  const auto pixels = x.to_host(), kernel = W.to_host();
  double sum = 0;
  for (Index k = 0; k < W.size(1); ++k)
    for (Index i = 0; i < W.size(2); ++i)
      for (Index j = 0; j < W.size(3); ++j) {
        const Index y = h * options.stride + i - options.padding.top,
                    z = w * options.stride + j - options.padding.left;
        if (y < 0 || z < 0 || y >= x.size(1) || z >= x.size(2)) continue;
        const auto pixel = static_cast<std::size_t>(((s * x.size(1) + y) * x.size(2) + z) * x.size(3) + k),
                   tap = static_cast<std::size_t>(((o * W.size(1) + k) * W.size(2) + i) * W.size(3) + j);
        sum += static_cast<double>(pixels[pixel]) * static_cast<double>(kernel[tap]);
      }
  return sum;
}

}  // namespace

TEST_CASE_TEMPLATE("conv2d is its formula, padding and stride included", T, float, double) {
  // Few outputs, and more than fill the registers of any processor; rows of a few pixels, and of some more.
  for (const auto& [pixels, kernel] : {std::pair<Shape, Shape>{{2, 5, 4, 3}, {2, 3, 3, 2}},
                                       {{1, 4, 19, 3}, {7, 3, 2, 2}},
                                       {{1, 3, 6, 2}, {90, 2, 3, 3}}}) {
    const auto x = noise<T>(pixels, 1), W = noise<T>(kernel, 2), c = noise<T>({kernel[0]}, 3);
    for (const auto& options : {ConvOptions{1, {}}, ConvOptions{1, Padding::all(1)},
                                ConvOptions{2, {0, 0, 1, 1}}, ConvOptions{3, {2, 1, 0, 1}}}) {
      const auto y = conv2d(x, W, c, options);
      const auto bias = doubles(c);
      std::vector<double> expected;
      for (Index s = 0; s < y.size(0); ++s)
        for (Index h = 0; h < y.size(1); ++h)
          for (Index w = 0; w < y.size(2); ++w)
            for (Index o = 0; o < y.size(3); ++o)
              expected.push_back(bias[static_cast<std::size_t>(o)] + at(x, W, options, s, h, w, o));
      CHECK(worst_error(doubles(y), expected) <= 10 * tight<T>);
    }
  }
}

TEST_CASE_TEMPLATE("An image of more patches than a chunk holds is convolved as its halves are", T, float,
                   double) {
  // 64 x 64 positions of 9 x 128 elements: 18 or 37 MB of patches.
  const auto W = noise<T>({4, 128, 3, 3}, 2);
  const ConvOptions options{1, Padding::all(1)};
  const auto whole = noise<T>({1, 64, 64, 128}, 1).set_requires_grad();
  const auto y = conv2d(whole, W, {}, options);
  const auto G = noise<T>(y.shape(), 3);
  backward(y, G);
  for (const Index first : {0, 32}) {
    // The rows of a half with the neighbours that they read.
    const Index top = first == 0 ? 0 : first - 1, bottom = first == 0 ? 33 : 64;
    const auto half = conv2d(slice(whole.detach(), 1, top, bottom), W, {}, options);
    const auto rows = slice(half, 1, first - top, first - top + 32);
    CHECK(worst_error(doubles(rows), doubles(slice(y.detach(), 1, first, first + 32))) <= 100 * tight<T>);
  }
  // The gradient's sum over the image is that of G times the kernel, where the image ends nowhere.
  const auto far = slice(slice(G, 1, 20, 23), 2, 30, 33);
  const auto kernel = W.to_host(), g = far.to_host();
  double expected = 0;
  for (Index i = 0; i < 3; ++i)
    for (Index j = 0; j < 3; ++j)
      for (Index o = 0; o < 4; ++o)
        expected +=
            static_cast<double>(g[static_cast<std::size_t>((i * 3 + j) * 4 + o)]) *
            static_cast<double>(kernel[static_cast<std::size_t>(((o * 128 + 5) * 3 + 2 - i) * 3 + 2 - j)]);
  const auto dx = whole.grad().to_host();
  CHECK(std::abs(static_cast<double>(dx[static_cast<std::size_t>((21 * 64 + 31) * 128 + 5)]) - expected) <=
        100 * tight<T>);
}

TEST_CASE_TEMPLATE("A convolution of very many weights an output is that of its halves, forth and back", T,
                   float, double) {
  // 9 x 500 weights an output: they are read in parts. They are small, so that the sums are about 1.
  const auto x = noise<T>({2, 5, 4, 500}, 1), W = noise<T>({21, 500, 3, 3}, 2) * T(1.0 / 64),
             c = noise<T>({21}, 3);
  for (const auto& options : {ConvOptions{1, Padding::all(1)}, ConvOptions{2, {0, 0, 1, 1}}}) {
    std::vector<std::vector<double>> results[2];
    for (const int way : {0, 1}) {
      auto leaf = x.detach();
      leaf.set_requires_grad();
      const auto half = [&](Index first, Index last, const Tensor<T, Device>& bias) {
        return conv2d(slice(leaf, 3, first, last), slice(W, 1, first, last), bias, options);
      };
      const auto y = way == 0 ? conv2d(leaf, W, c, options) : add(half(0, 250, c), half(250, 500, {}));
      backward(y, noise<T>(y.shape(), 4));
      results[way] = {doubles(y), doubles(leaf.grad())};
    }
    for (std::size_t i = 0; i < 2; ++i) CHECK(worst_error(results[0][i], results[1][i]) <= 20 * tight<T>);
  }
  // The pullback's outputs are x's channels: its depth is W's outputs.
  const auto wide = noise<T>({500, 21, 3, 3}, 5) * T(1.0 / 64);
  auto leaf = noise<T>({1, 4, 5, 21}, 6);
  leaf.set_requires_grad();
  const auto G = noise<T>({1, 4, 5, 500}, 7);
  backward(conv2d(leaf, wide, {}, {1, Padding::all(1)}), G);
  const auto whole = doubles(leaf.grad());
  leaf.zero_grad();
  for (const auto& [first, last] : {std::pair<Index, Index>{0, 250}, {250, 500}})
    backward(conv2d(leaf, slice(wide, 0, first, last), {}, {1, Padding::all(1)}), slice(G, 3, first, last));
  CHECK(worst_error(whole, doubles(leaf.grad())) <= 20 * tight<T>);
}

TEST_CASE("conv2d refuses shapes that do not fit and names them") {
  using Tn = Tensor<float, Device>;
  const auto x = Tn::zeros({1, 4, 4, 2});
  CHECK_THROWS_AS(conv2d(x, Tn::zeros({3, 3, 3, 3})), ShapeError);
  CHECK_THROWS_AS(conv2d(x, Tn::zeros({3, 2, 5, 3})), ShapeError);
  CHECK_THROWS_AS(conv2d(x, Tn::zeros({3, 2, 3, 3}), Tn::zeros({2})), ShapeError);
  CHECK_THROWS_AS(conv2d(x, Tn::zeros({3, 2, 3, 3}), {}, {0, {}}), ShapeError);
  CHECK_THROWS_AS(conv2d(x, Tn::zeros({3, 2, 3, 3}), {}, {1, Padding::all(-1)}), ShapeError);
  CHECK_THROWS_AS(channels_last(Tn::zeros({1, 2, 3})), ShapeError);
}
