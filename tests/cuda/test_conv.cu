// Convolutions by cuDNN against products of patches on the processor, in double.

#include <doctest/doctest.h>

#include <mole/cuda.cuh>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

#ifdef MOLE_CUDNN

namespace {

struct Case {
  Shape x, W;
  ConvOptions options;
};
const std::vector<Case> cases{{{2, 8, 8, 16}, {24, 16, 3, 3}, {1, Padding::all(1)}},
                              {{3, 32, 32, 3}, {32, 3, 3, 3}, {1, Padding::all(1)}},
                              {{2, 16, 16, 32}, {3, 32, 3, 3}, {1, Padding::all(1)}},
                              {{2, 9, 7, 8}, {8, 8, 3, 3}, {2, Padding::all(1)}},
                              {{1, 12, 12, 5}, {7, 5, 5, 3}, {1, {}}},
                              {{2, 8, 8, 8}, {8, 8, 1, 1}, {2, {}}},
                              {{2, 8, 8, 8}, {8, 8, 3, 3}, {2, {0, 0, 1, 1}}},
                              {{1, 4, 4, 3}, {80, 3, 4, 4}, {4, {}}}};

/// y, dx, dW and dc of a convolution of numbers that T holds exactly.
template <class T, class B>
std::vector<std::vector<double>> results(const Case& c) {
  const auto rounded = [](const Shape& shape, std::uint64_t stream) {
    auto values = noise<double>(shape, stream).to_host();
    std::vector<T> list;
    for (const double v : values)
      list.push_back(static_cast<T>(static_cast<float>(mole::bf16(static_cast<float>(v)))));
    return Tensor<T, B>::from(shape, list).set_requires_grad();
  };
  const auto x = rounded(c.x, 1), W = rounded(c.W, 2), bias = rounded({c.W[0]}, 3);
  const auto y = conv2d(x, W, bias, c.options);
  backward(y, rounded(y.shape(), 4).detach());
  return {doubles(y), doubles(x.grad()), doubles(W.grad()), doubles(bias.grad())};
}

/// The largest difference, as a part of the largest number.
double difference(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    worst = std::max(worst, std::abs(a[i] - b[i]));
    largest = std::max(largest, std::abs(b[i]));
  }
  return worst / largest;
}

}  // namespace

TEST_CASE("Convolutions by cuDNN and their pullbacks are those of the processor, the same bits each time") {
  for (const auto& c : cases) {
    CAPTURE(c.x);
    CAPTURE(c.W);
    const auto expected = results<double, Cpu>(c);
    const auto found = results<float, Cuda>(c), again = results<float, Cuda>(c),
               narrow = results<bf16, Cuda>(c);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      CHECK(difference(found[i], expected[i]) <= 1e-5);
      CHECK(difference(narrow[i], expected[i]) <= 1e-2);
      const bool same = found[i] == again[i];
      CHECK(same);
    }
  }
}

TEST_CASE("cuDNN does most of these convolutions, and none where it is switched off") {
  int by_cudnn = 0;
  for (const auto& c : cases) {
    const auto e = mole::detail::conv_extents(Tensor<float, Cuda>::zeros(c.x),
                                              Tensor<float, Cuda>::zeros(c.W), {}, c.options);
    const auto x = Tensor<float, Cuda>::zeros(c.x), W = Tensor<float, Cuda>::zeros(c.W);
    const auto y = Tensor<float, Cuda>::zeros({e.images, e.out_height, e.out_width, e.outputs});
    for (const auto product : {ConvProduct::forward, ConvProduct::data, ConvProduct::weights}) {
      by_cudnn +=
          mole::detail::convolve<float, Cuda>(product, e, x.data(), W.data(), y.data(), nullptr, false);
      Cuda::use_cudnn() = false;
      const bool none =
          mole::detail::convolve<float, Cuda>(product, e, x.data(), W.data(), y.data(), nullptr, false);
      CHECK(!none);
      Cuda::use_cudnn() = true;
    }
  }
  // All but the one that is padded on two sides alone.
  CHECK(by_cudnn >= 18);
}

TEST_CASE("A captured step may convolve by cuDNN") {
  const auto& c = cases.front();
  const auto x = noise<float>(c.x, 1), W = noise<float>(c.W, 2);
  const auto expected = doubles(conv2d(x, W, {}, c.options));
  Tensor<float, Cuda> y;
  CudaGraph graph([&] { y = conv2d(x, W, {}, c.options); });
  graph.replay();
  CHECK(doubles(y) == expected);
}

#endif
