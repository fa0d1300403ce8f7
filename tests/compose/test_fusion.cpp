#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <mole/backends/cpu.hpp>

using namespace mole;

TEST_CASE("Custom Diffusion's merge maps its words as asked and drops words that repeat") {
  const HostMatrix W0{2, 3, {1, 2, 3, 4, 5, 6}}, C_reg{4, 3, {1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1}};
  const HostMatrix C{1, 3, {1, 2, 0}}, V{1, 2, {7, -3}};
  const auto W = merge_custom_diffusion(W0, C_reg, C, V);
  CHECK(W.values[0] + 2 * W.values[1] == doctest::Approx(7));
  CHECK(W.values[3] + 2 * W.values[4] == doctest::Approx(-3));
  const auto twice = merge_custom_diffusion(W0, C_reg, {2, 3, {1, 2, 0, 1, 2, 0}}, {2, 2, {7, -3, 9, 9}});
  CHECK(twice.values == W.values);
  CHECK_THROWS_AS(merge_custom_diffusion(W0, C_reg, {2, 3, {1, 2, 0, 2, 4, 0}}, {2, 2, {1, 1, 1, 1}}),
                  ArgumentError);
  CHECK_THROWS_AS(merge_custom_diffusion(W0, C_reg, C, {2, 2, {1, 1, 1, 1}}), ShapeError);
  CHECK_THROWS_AS(merge_custom_diffusion(W0, {1, 2, {1, 1}}, C, V), ShapeError);
}

TEST_CASE("Gradient fusion keeps each concept's outputs where their inputs do not meet, and W0 elsewhere") {
  const HostMatrix W0{1, 3, {1, 2, 3}};
  const auto W =
      fuse_gradients(W0, {{{1, 3, {5, 0, 0}}, {1, 3, {1, 0, 0}}}, {{1, 3, {9, 7, 0}}, {1, 3, {0, 2, 0}}}});
  CHECK(W.values[0] == doctest::Approx(6));
  CHECK(W.values[1] == doctest::Approx(9));
  CHECK(W.values[2] == 3);
  CHECK_THROWS_AS(fuse_gradients(W0, {}), ArgumentError);
  CHECK_THROWS_AS(fuse_gradients(W0, {{{1, 2, {5, 0}}, {1, 3, {1, 0, 0}}}}), ShapeError);
}

TEST_CASE("A shift of zero keeps a weight, and a norm's weight has one singular value") {
  const auto W = Tensor<double, Cpu>::randn({3, 2, 2, 2}, {1, 1});
  const auto spectral = spectral_weight(W);
  CHECK(spectral.sigma.shape() == Shape{3});
  const auto same = shifted_weight(spectral, spectral.make_shift()).to_host(), expected = W.to_host();
  for (std::size_t i = 0; i < same.size(); ++i) CHECK(same[i] == doctest::Approx(expected[i]));
  const auto norm = spectral_weight(Tensor<double, Cpu>::from({2}, {3, 4}));
  CHECK(norm.sigma.to_host().front() == doctest::Approx(5));
  CHECK_THROWS_AS(shifted_weight(norm, spectral.make_shift()), ShapeError);
}
