// Layers over a frozen weight that is stored in a format of its own.

#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include <doctest/doctest.h>
#include <experts/experts.hpp>
#include <mole/autodiff/grad_check.hpp>
#include <mole/compose/linear.hpp>
#include <mole/nn/linear.hpp>
#include <testing.hpp>

using namespace mole;
using namespace mole::testing;

namespace {

constexpr Index d_in = 6, d_out = 5;

/// W by rows of 8-bit integers with a scale each.
template <class T>
class ByteRows : public WeightFormat<T, Device> {
 public:
  explicit ByteRows(const Tensor<T, Device>& W) : shape_(W.shape()) {
    const auto values = doubles(W);
    const Index n = shape_[1];
    for (Index row = 0; row < shape_[0]; ++row) {
      double largest = 0;
      for (Index j = 0; j < n; ++j)
        largest = std::max(largest, std::abs(values[static_cast<std::size_t>(row * n + j)]));
      scales_.push_back(largest / 127);
      for (Index j = 0; j < n; ++j)
        bytes_.push_back(static_cast<std::int8_t>(
            std::lround(values[static_cast<std::size_t>(row * n + j)] / scales_.back())));
    }
  }
  Shape shape() const override { return shape_; }
  void forward(Index rows, const T* x, bool add, T* y) const override {
    Device::gemm(detail::gemm_nt(rows, shape_[0], shape_[1], add ? 1 : 0), x, dense().data(), y);
  }
  void backward(Index rows, const T* G, bool add, T* dx) const override {
    Device::gemm(detail::gemm_nn(rows, shape_[1], shape_[0], add ? 1 : 0), G, dense().data(), dx);
  }
  /// What the bytes stand for.
  Tensor<T, Device> dense() const {
    std::vector<T> values;
    for (std::size_t i = 0; i < bytes_.size(); ++i)
      values.push_back(static_cast<T>(bytes_[i] * scales_[i / static_cast<std::size_t>(shape_[1])]));
    return Tensor<T, Device>::from(shape_, values);
  }

 private:
  Shape shape_;
  std::vector<std::int8_t> bytes_;
  std::vector<double> scales_;
};

std::vector<LoraFactors> experts() {
  return {random_factors(2, d_in, d_out, 0.5, 1), random_factors(1, d_in, d_out, 0.25, 2),
          random_factors(2, d_in, d_out, 2, 3)};
}

}  // namespace

TEST_CASE_TEMPLATE("A frozen layer in a format of its own computes what the dense one does", T, float,
                   double) {
  const auto bytes = std::make_shared<const ByteRows<T>>(noise<T>({d_out, d_in}, 1));
  const auto W = bytes->dense(), c = noise<T>({d_out}, 2);
  auto x = noise<T>({2, 3, d_in}, 3), z = x.clone();
  x.set_requires_grad();
  z.set_requires_grad();
  const auto y = frozen_linear(x, FrozenWeight<T, Device>(bytes), c), expected = linear(z, W, c);
  CHECK(worst_error(y, doubles(expected)) < tight<T>);
  const auto G = noise<T>(y.shape(), 4);
  backward(y, G);
  backward(expected, G);
  CHECK(worst_error(x.grad(), doubles(z.grad())) < tight<T>);
}

TEST_CASE("A frozen layer's pullback is its gradient") {
  const FrozenWeight<double, Device> W(noise<double>({d_out, d_in}, 1));
  const auto result = grad_check<Device>(
      [&](const std::vector<Tensor<double, Device>>& in) { return frozen_linear(in[0], W); },
      {noise<double>({2, 3, d_in}, 2)});
  CHECK_MESSAGE(result.ok, result.where);
}

TEST_CASE("Every router mixes over a weight in a format of its own as over the dense one") {
  const auto bytes = std::make_shared<const ByteRows<double>>(noise<double>({d_out, d_in}, 1));
  const auto c = noise<double>({d_out}, 2);
  for (const auto& router :
       std::vector<RouterOptions>{GateOptions{.pooling = Pooling::token}, GateOptions{},
                                  GateOptions{.top_k = 1}, ArrowOptions{.top_k = 2}, XLoraOptions{}}) {
    CAPTURE(router_name(router));
    const MoleLinear<double, Device> stored(FrozenWeight<double, Device>(bytes), c, experts(), router);
    const MoleLinear<double, Device> dense(bytes->dense(), c, experts(), router);
    auto x = noise<double>({2, 40, d_in}, 3), z = x.clone();
    x.set_requires_grad();
    z.set_requires_grad();
    const auto y = stored(x).y, expected = dense(z).y;
    CHECK(worst_error(y, doubles(expected)) < 1e-14);
    backward(sum(mul(y, y)));
    backward(sum(mul(expected, expected)));
    CHECK(worst_error(x.grad(), doubles(z.grad())) < 1e-12);
  }
}

TEST_CASE("Extents that do not fit, and merging into a weight that is not dense, are refused by name") {
  const auto bytes = std::make_shared<const ByteRows<double>>(noise<double>({d_out, d_in}, 1));
  const FrozenWeight<double, Device> W(bytes);
  CHECK(lacks<ShapeError>(
            [&] {
              frozen_linear(noise<double>({2, d_in + 1}), W);
            },
            {"frozen_linear", "[2, 7]", "[5, 6]"}) == "");
  SlotTable<double, Device> table;
  table.add_group({}, {{"layer", d_out, d_in}});
  table.slots[0].stored = W;
  CHECK(worst_error(table.apply(0, noise<double>({2, d_in})),
                    doubles(linear(noise<double>({2, d_in}), bytes->dense()))) < 1e-14);
  const LoraSet set{"french", "", {"layer"}, [](const std::string&) { return experts()[0]; }};
  CHECK(lacks<ArgumentError>([&] { merge(table, {set}, {1.0}); }, {"french", "layer", "dense"}) == "");
}
