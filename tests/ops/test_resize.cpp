#include <doctest/doctest.h>

#include <mole/mole.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

TEST_CASE("resize_nearest repeats pixels, to odd sizes too") {
  const auto x = Tensor<float, Device>::from({1, 1, 3, 1}, {1, 2, 3});
  CHECK(resize_nearest(x, 1, 6).to_host() == std::vector<float>{1, 1, 2, 2, 3, 3});
  CHECK(resize_nearest(x, 1, 5).to_host() == std::vector<float>{1, 1, 2, 2, 3});
  CHECK(resize_nearest(x, 2, 2).to_host() == std::vector<float>{1, 2, 1, 2});
  CHECK_THROWS_AS(resize_nearest(x, 0, 2), ShapeError);
}

TEST_CASE("resize_bicubic keeps a constant image and an image of its own size") {
  const auto flat = Tensor<double, Device>::full({1, 9, 7, 2}, 0.25);
  for (const double value : doubles(resize_bicubic(flat, 4, 13))) CHECK(value == doctest::Approx(0.25));
  const auto x = noise<double>({1, 3, 4, 1}, 1);
  CHECK(resize_bicubic(x, 3, 4).to_host() == x.to_host());
}

TEST_CASE("resize_bicubic refuses sides whose matrix would take gigabytes, before it makes one") {
  const auto x = Tensor<float, Device>::zeros({1, 1, 1 << 15, 1});
  for (const Index side : {Index{1} << 14, Index{1} << 40, std::numeric_limits<Index>::max()})
    CHECK(lacks<ShapeError>([&] { resize_bicubic(x, 1, side); },
                            {"resize_bicubic", "32768", "weights", "crop"}) == "");
  CHECK(lacks<ShapeError>([&] { resize_bicubic(x, Index{1} << 40, 1 << 15); },
                          {"1099511627776", "weights"}) == "");
}

TEST_CASE("The bicubic filter of Pillow to half the size has its eight weights") {
  // The cubic at 1/4, 3/4, 5/4 and 7/4, over the sum of its values, 2.
  const auto weights = doubles(detail::bicubic_matrix<double, Device>(16, 8));
  const std::vector<double> expected{-0.01171875, -0.03515625, 0.11328125,  0.43359375,
                                     0.43359375,  0.11328125,  -0.03515625, -0.01171875};
  for (std::size_t i = 0; i < expected.size(); ++i)
    CHECK(weights[4 * 16 + 5 + i] == doctest::Approx(expected[i]).epsilon(1e-12));
}

TEST_CASE("crop takes a box and refuses one outside the image") {
  const auto x = Tensor<float, Device>::from({1, 2, 3, 1}, {1, 2, 3, 4, 5, 6});
  CHECK(crop(x, 0, 1, 2, 2).to_host() == std::vector<float>{2, 3, 5, 6});
  CHECK_THROWS_AS(crop(x, 1, 1, 2, 2), ShapeError);
  CHECK_THROWS_AS(crop(x, -1, 0, 1, 1), ShapeError);
}

TEST_CASE("clamp cuts values, and gradients too unless they go straight through") {
  const auto x = Tensor<float, Device>::from({4}, {-1, 0.25f, 1, 3}).set_requires_grad();
  const auto y = clamp(x, 0, 1);
  CHECK(y.to_host() == std::vector<float>{0, 0.25f, 1, 1});
  backward(y, Tensor<float, Device>::from({4}, {1, 2, 3, 4}));
  CHECK(x.grad().to_host() == std::vector<float>{0, 2, 3, 0});
  x.zero_grad();
  backward(clamp(x, 0, 1, ClampGradient::straight_through), Tensor<float, Device>::from({4}, {1, 2, 3, 4}));
  CHECK(x.grad().to_host() == std::vector<float>{1, 2, 3, 4});
  CHECK_THROWS_AS(clamp(x, 1, 0), ArgumentError);
}

TEST_CASE("geglu gates by its second half and refuses an odd width") {
  const auto x = noise<double>({2, 6}, 1);
  const auto expected = slice(x, 1, 0, 3) * gelu(slice(x, 1, 3, 6));
  CHECK(worst_error(doubles(geglu(x)), doubles(expected)) <= 1e-15);
  CHECK_THROWS_AS(geglu(Tensor<float, Device>::zeros({2, 3})), ShapeError);
}

TEST_CASE("timestep_sinusoid has the cosines first unless told otherwise") {
  const auto t = Tensor<Index, Device>::from({2}, {0, 501});
  const auto y = doubles(timestep_sinusoid<double>(t, 4));
  const double slow = 501 * std::exp(-std::log(10000.0) / 2);
  const std::vector<double> expected{
      1, 1, 0, 0, std::cos(501.0), std::cos(slow), std::sin(501.0), std::sin(slow)};
  CHECK(worst_error(y, expected) <= 1e-13);
  const auto flipped = doubles(timestep_sinusoid<double>(t, 4, {.flip_sin_to_cos = false, .freq_shift = 1}));
  CHECK(flipped[4] == doctest::Approx(std::sin(501.0)));
  CHECK(flipped[5] == doctest::Approx(std::sin(501 * 1e-4)));
  CHECK_THROWS_AS(timestep_sinusoid<float>(t, 3), ShapeError);
}
