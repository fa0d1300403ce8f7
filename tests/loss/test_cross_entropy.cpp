// Cross entropy and the squared error against loops, and their bad labels.

#include <doctest/doctest.h>

#include <mole/mole.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

double reference(const std::vector<double>& x, const std::vector<Index>& labels, std::size_t n, Index ignored,
                 double smoothing) {
  double loss = 0, rows = 0;
  for (std::size_t r = 0; r < labels.size(); ++r) {
    if (labels[r] == ignored) continue;
    double total = 0, even = 0;
    for (std::size_t j = 0; j < n; ++j)
      total += std::exp(x[r * n + j]), even += x[r * n + j] / static_cast<double>(n);
    loss +=
        std::log(total) - (1 - smoothing) * x[r * n + static_cast<std::size_t>(labels[r])] - smoothing * even;
    ++rows;
  }
  return rows > 0 ? loss / rows : 0;
}

}  // namespace

TEST_CASE_TEMPLATE("cross_entropy is the mean over labels that count", T, float, double) {
  const std::vector<Index> labels{3, -100, 0, 6, 3, -100};
  const auto x = noise<T>({2, 3, 7}) * T(4);
  for (const double smoothing : {0.0, 0.1, 0.9})
    for (const Index ignored : {Index{-100}, Index{3}}) {
      auto used = labels;
      for (Index& label : used)
        if (ignored != -100 && label == -100) label = 1;
      const auto loss = cross_entropy(x, Tensor<Index, Device>::from({2, 3}, used),
                                      {.ignore_index = ignored, .label_smoothing = smoothing});
      CHECK(loss.shape() == Shape{});
      CHECK(worst_error(loss, {reference(doubles(x), used, 7, ignored, smoothing)}) <= tight<T>);
    }
}

TEST_CASE_TEMPLATE("Nothing to count is a loss of 0 with a gradient of 0", T, float, double) {
  auto x = noise<T>({2, 3}).set_requires_grad();
  const auto loss = cross_entropy(x, Tensor<Index, Device>::from({2}, {-100, -100}));
  CHECK(loss.item() == T(0));
  backward(loss);
  CHECK(x.grad().to_host() == std::vector<T>(6, T(0)));
}

TEST_CASE_TEMPLATE("Huge logits do not overflow, ignored NaN does not spread, counted NaN does", T, float,
                   double) {
  const T huge = T(1e30), nan = std::numeric_limits<T>::quiet_NaN();
  const auto sure = Tensor<T, Device>::from({1, 2}, {huge, T(0)});
  CHECK(cross_entropy(sure, Tensor<Index, Device>::from({1}, {0})).item() == T(0));
  CHECK(cross_entropy(sure, Tensor<Index, Device>::from({1}, {1})).item() == huge);
  const auto x = Tensor<T, Device>::from({2, 2}, {nan, nan, T(1), T(1)});
  CHECK(cross_entropy(x, Tensor<Index, Device>::from({2}, {-100, 0})).item() ==
        doctest::Approx(std::log(2.0)));
  CHECK(std::isnan(cross_entropy(x, Tensor<Index, Device>::from({2}, {0, 0})).item()));
}

TEST_CASE_TEMPLATE("mse is the mean of squared differences, broadcast", T, float, double) {
  const auto a = Tensor<T, Device>::from({2, 2}, {1, 2, 3, 4}), b = Tensor<T, Device>::from({2}, {1, 0});
  CHECK(mse(a, b).item() == T(6));
  CHECK(mse(a, a).item() == T(0));
}

TEST_CASE("Labels that do not fit are refused") {
  const auto x = Tensor<float, Device>::ones({2, 3, 4});
  auto labels = [](const Shape& shape, std::vector<Index> values) {
    return Tensor<Index, Device>::from(shape, values);
  };
  CHECK(lacks<ShapeError>(
            [&] {
              cross_entropy(x, labels({2, 3}, {0, 1, 2, 3, 4, 0}));
            },
            {"cross_entropy", "labels", "index 4"}) == "");
  CHECK(lacks<ShapeError>(
            [&] {
              cross_entropy(x, labels({2, 3}, {0, 1, -1, 3, 0, 0}));
            },
            {"cross_entropy", "index -1"}) == "");
  CHECK(lacks<ShapeError>(
            [&] {
              cross_entropy(x, labels({6}, {0, 0, 0, 0, 0, 0}));
            },
            {"cross_entropy", "[2, 3, 4]", "[6]"}) == "");
  CHECK(lacks<ShapeError>(
            [&] {
              cross_entropy(x, labels({3, 2}, {0, 0, 0, 0, 0, 0}));
            },
            {"cross_entropy", "[2, 3, 4]", "[3, 2]"}) == "");
  CHECK(lacks<ShapeError>([&] { cross_entropy(Tensor<float, Device>::scalar(1), labels({}, {0})); },
                          {"cross_entropy", "[]"}) == "");
  for (const double smoothing : {-0.1, 1.0})
    CHECK(lacks<ArgumentError>(
              [&] {
                cross_entropy(Tensor<float, Device>::ones({1, 2}), labels({1}, {0}),
                              {.label_smoothing = smoothing});
              },
              {"cross_entropy", "smoothing"}) == "");
}
