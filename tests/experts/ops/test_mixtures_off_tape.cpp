// Layers of a few rows by a backend's kernels for them, with kernels of a few lines on the processor: beside mixture(), and
// where the layers go one by one.

#include <doctest/doctest.h>

#include <cstddef>
#include <memory>
#include <vector>

#include <mole/experts/ops/gated_mixture.hpp>
#include <mole/experts/ops/mixtures_off_tape.hpp>
#include <mole/nn/linear.hpp>

#include "experts/ops/with_kernels.hpp"

namespace with_kernels {

namespace {

using D = Tensor<double, WithKernels>;
using Layers = std::vector<KnownMixture<double, WithKernels>>;

/// A W that is not dense.
class Stored final : public WeightFormat<double, WithKernels> {
 public:
  explicit Stored(D W) : W_(std::move(W)) {}
  Shape shape() const override { return W_.shape(); }
  void forward(Index rows, const double* x, bool add, double* y) const override {
    FrozenWeight<double, WithKernels>(W_).forward(rows, x, add, y);
  }
  void backward(Index rows, const double* G, bool add, double* dx) const override {
    FrozenWeight<double, WithKernels>(W_).backward(rows, G, add, dx);
  }

 private:
  D W_;
};

/// Three layers of different widths for gates of this shape: with experts of 5 and of 3 ranks, and without.
Layers known_layers(const Shape& gate, bool stored) {
  Layers layers;
  for (std::size_t i = 0; i < 3; ++i) {
    const auto seed = static_cast<unsigned>(10 * i);
    const Index width = 4 + static_cast<Index>(i), ranks = 5 - 2 * static_cast<Index>(i);
    const auto W = noise<double, WithKernels>({width, d_in}, seed + 1);
    KnownMixture<double, WithKernels> layer{.W = W};
    if (stored)
      layer.W = std::shared_ptr<const WeightFormat<double, WithKernels>>(std::make_shared<const Stored>(W));
    if (i != 1) layer.c = noise<double, WithKernels>({width}, seed + 2);
    if (i != 2) {
      layer.A = noise<double, WithKernels>({ranks, d_in}, seed + 3);
      layer.Q = noise<double, WithKernels>({width, ranks}, seed + 4);
      layer.g = noise<double, WithKernels>(gate, seed + 5);
      std::vector<Index> of;
      for (Index j = 0; j < ranks; ++j) of.push_back(j * N / ranks);
      layer.column = Tensor<Index, WithKernels>::from({ranks}, of);
    }
    layers.push_back(layer);
  }
  return layers;
}

/// The same by the ops that have a tape.
D one_by_one(const D& x, const KnownMixture<double, WithKernels>& layer) {
  return layer.has_experts()
             ? mixture(x, layer.W, layer.c, linear(x, layer.A), layer.g, layer.Q, layer.column)
             : frozen_linear(x, layer.W, layer.c);
}

struct TakesProducts {
  TakesProducts() { WithKernels::takes_products = true, WithKernels::row_product_calls = 0; }
  ~TakesProducts() { WithKernels::takes_products = false; }
};

}  // namespace

TEST_CASE("Layers of one input, with experts of known weights and without, are one launch of products") {
  const TakesProducts on;
  const auto x = noise<double, WithKernels>({S, L, d_in}, 1);
  for (const Shape& gate : {Shape{S, N}, Shape{S, L, N}})
    for (const bool stored : {false, true}) {
      CAPTURE(message(gate, stored));
      const auto layers = known_layers(gate, stored);
      WithKernels::row_product_calls = 0;
      const auto found = mixtures_off_tape(x, layers);
      REQUIRE(found.size() == layers.size());
      CHECK(WithKernels::row_product_calls == 1);
      for (std::size_t i = 0; i < layers.size(); ++i) {
        REQUIRE(found[i].shape() == Shape({S, L, layers[i].W.d_out()}));
        CHECK(worst_error(doubles(found[i]), doubles(one_by_one(x, layers[i]))) <= 1e-12);
      }
    }
}

TEST_CASE(
    "Layers go one by one where the tape is on, the gates differ in kind, or the backend does not take them") {
  auto x = noise<double, WithKernels>({S, L, d_in}, 1);
  auto layers = known_layers({S, N}, false);
  CHECK(mixtures_off_tape(x, layers).empty());
  const TakesProducts on;
  CHECK_FALSE(mixtures_off_tape(x, layers).empty());
  auto differ = layers;
  differ[0].g = noise<double, WithKernels>({S, L, N}, 3);
  CHECK(mixtures_off_tape(x, differ).empty());
  const Layers bare{{.W = known_layers({S, N}, true)[0].W}};
  CHECK(mixtures_off_tape(x, bare).empty());
  auto trained = layers;
  trained[0].g.set_requires_grad();
  CHECK(mixtures_off_tape(x, trained).empty());
  x.set_requires_grad();
  CHECK(mixtures_off_tape(x, layers).empty());
  const NoGrad off;
  CHECK_FALSE(mixtures_off_tape(x, layers).empty());
}

TEST_CASE("Layers of one input that do not fit it are refused") {
  const TakesProducts on;
  const auto x = noise<double, WithKernels>({S, L, d_in}, 1);
  for (const std::size_t i : {std::size_t{0}, std::size_t{2}}) {
    auto layers = known_layers({S, N}, false);
    layers[i].W = noise<double, WithKernels>({layers[i].W.d_out(), d_in + 1}, 2);
    CHECK_THROWS_AS(mixtures_off_tape(x, layers), ShapeError);
  }
  auto layers = known_layers({S, N}, false);
  layers[2].c = noise<double, WithKernels>({1}, 2);
  CHECK_THROWS_AS(mixtures_off_tape(x, layers), ShapeError);
}

}  // namespace with_kernels
