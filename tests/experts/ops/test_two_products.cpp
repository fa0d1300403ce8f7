// A mixture's two products by a backend's kernel for both, with a kernel of a few lines on the processor.

#include <doctest/doctest.h>

#include <memory>
#include <utility>
#include <vector>

#include <mole/experts/ops/mixture.hpp>
#include <mole/nn/linear.hpp>

#include "experts/ops/with_kernels.hpp"

namespace with_kernels {

TEST_CASE("A kernel for both products gives what two products give, together, one by one, and by rows") {
  struct Way {
    std::vector<Index> experts;
    bool adjacent_W;
    int forth;  ///< launches for y
  };
  WithKernels::takes_products = true;
  // In one launch, where W lies so; each by itself; by the row functors, as the gate's kernels do not fit.
  for (const Way& way :
       {Way{{4, 4, 4}, true, 1}, Way{{4, 4, 4}, false, 0}, Way{{4, 3, 4}, true, 3}, Way{{6, 6, 6}, true, 3}})
    for (const bool biased : {false, true})
      for (std::size_t r = 0; r < readings.size(); ++r) {
        CAPTURE(message(way.experts[1], way.adjacent_W, biased, r));
        WithKernels::product_calls = 0;
        const auto found = run(make_layers<WithKernels>(way.experts, biased, way.adjacent_W), readings[r]);
        CHECK(WithKernels::product_calls >=
              way.forth + (readings[r].y.empty() && !readings[r].glued ? 0 : 1));
        check_equal(found, run(make_layers<Cpu>(way.experts, biased, way.adjacent_W), readings[r]));
      }
  WithKernels::takes_products = false;
  WithKernels::product_calls = 0;
  run(make_layers<WithKernels>({4, 4, 4}, true, true), readings[0]);
  CHECK(WithKernels::product_calls == 0);
}

namespace {

/// A W whose numbers are there when they are asked for.
class NumbersOnDemand final : public WeightFormat<double, WithKernels> {
 public:
  explicit NumbersOnDemand(Tensor<double, WithKernels> W) : W_(std::move(W)) {}
  Shape shape() const override { return W_.shape(); }
  void forward(Index rows, const double* x, bool add, double* y) const override {
    FrozenWeight<double, WithKernels>(W_).forward(rows, x, add, y);
  }
  void backward(Index rows, const double* G, bool add, double* dx) const override {
    FrozenWeight<double, WithKernels>(W_).backward(rows, G, add, dx);
  }
  bool numbers_to(Index, double* out) const override {
    WithKernels::copy(out, W_.data(), W_.size());
    return true;
  }

 private:
  Tensor<double, WithKernels> W_;
};

}  // namespace

TEST_CASE(
    "The kernel gets a packed W's numbers, and is told that they are not older than what it waits for") {
  WithKernels::takes_products = true;
  for (const std::vector<Index>& experts : {std::vector<Index>{4, 4, 4}, {4, 3, 4}, {6, 6, 6}})
    for (const auto& reading : readings) {
      auto layers = make_layers<WithKernels>(experts, true, false);
      for (auto& layer : layers)
        layer.W = std::shared_ptr<const WeightFormat<double, WithKernels>>(
            std::make_shared<const NumbersOnDemand>(layer.W.dense()));
      WithKernels::product_calls = WithKernels::late_calls = 0;
      const auto found = run(layers, reading);
      CHECK(WithKernels::product_calls > 0);
      CHECK(WithKernels::late_calls == WithKernels::product_calls);
      check_equal(found, run(make_layers<Cpu>(experts, true, false), reading));
    }
  WithKernels::takes_products = false;
  WithKernels::late_calls = 0;
  run(make_layers<WithKernels>({4, 4, 4}, true, true), readings[0]);
  CHECK(WithKernels::late_calls == 0);
}

TEST_CASE("A sequence gate's mixture takes the kernel for both products") {
  const auto run = [&]<class B>(const B&) {
    const auto layer = make_layers<B>({4}, true, false).front();
    auto x = noise<double, B>({S, L, d_in}, 1), h = noise<double, B>({S, L, R}, 2),
         g = noise<double, B>({S, N}, 3);
    for (auto* leaf : {&x, &h, &g}) leaf->set_requires_grad();
    const auto y = mixture(x, layer.W, layer.c, h, g, layer.Q, layer.expert);
    backward(y, noise<double, B>(y.shape(), 4));
    return std::vector{doubles(y), doubles(x.grad()), doubles(h.grad()), doubles(g.grad())};
  };
  WithKernels::takes_products = true;
  WithKernels::product_calls = 0;
  const auto found = run(WithKernels());
  WithKernels::takes_products = false;
  CHECK(WithKernels::product_calls == 1);
  check_equal(found, run(Cpu()));
}

}  // namespace with_kernels
