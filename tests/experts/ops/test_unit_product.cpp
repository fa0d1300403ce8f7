// The product of a gate's unit input with U, made without that input.

#include <cmath>
#include <vector>

#include <doctest/doctest.h>

#include <mole/autodiff/grad_check.hpp>
#include <mole/experts/ops/unit_product.hpp>
#include <mole/mole.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

/// A of two layers, of 9 and 5 rows.
template <class T>
struct Layers {
  std::vector<Tensor<T, Device>> A, K;

  explicit Layers(Index d) {
    for (const Index R : {9, 5}) {
      A.push_back(noise<T>({R, d}, 10 + static_cast<std::uint64_t>(R)));
      K.push_back(Tensor<T, Device>::empty({d, d}));
      detail::inner_products(A.back(), K.back());
    }
  }
};

}  // namespace

TEST_CASE_TEMPLATE("A gate's product is that of its unit input, which is not made", T, float, double) {
  const Index S = 5, d = 3, m = 4;
  const Layers<T> layers(d);
  const auto x = noise<T>({S, d}, 1), U = noise<T>({14, m}, 2);
  const auto v = concat<T, Device>({linear(x, layers.A[0]), linear(x, layers.A[1])}, -1);
  const auto expected = doubles(matmul(unit_rows(v), U));
  CHECK(worst_error(unit_product(x, layers.A, layers.K, U), expected) <= 20 * tight<T>);
}

TEST_CASE("Its gradients are those of finite differences, added to what x and U have from elsewhere") {
  using D = Tensor<double, Device>;
  const Layers<double> layers(3);
  const auto x = noise<double>({5, 3}, 1), U = noise<double>({14, 4}, 2);
  const auto result = grad_check<Device>(
      [&](const std::vector<D>& in) {
        const auto z = unit_product(in[0], layers.A, layers.K, in[1]);
        return add(sum(square(sub(z, noise<double>({5, 4}, 3)))),
                   add(sum(square(in[0])), sum(square(in[1]))));
      },
      {x, U});
  CHECK_MESSAGE(result.ok, result.worst, " ", result.where);
}

TEST_CASE_TEMPLATE("An input of which the experts make nothing gives finite numbers", T, float, double) {
  // A knows two of three directions; the last row lies in the third.
  const auto A = Tensor<T, Device>::from(
      {4, 3}, {T(1), T(2), T(0), T(-3), T(1), T(0), T(2), T(2), T(0), T(1), T(-1), T(0)});
  const auto K = Tensor<T, Device>::empty({3, 3});
  detail::inner_products(A, K);
  auto x = Tensor<T, Device>::from({3, 3}, {T(1), T(1), T(1), T(0), T(0), T(0), T(0), T(0), T(5)});
  auto U = noise<T>({4, 2}, 2);
  x.set_requires_grad(), U.set_requires_grad();
  const auto z = unit_product<T, Device>(x, {A}, {K}, U);
  const auto values = doubles(z);
  const auto expected = doubles(matmul(unit_rows(linear(x.detach(), A)), U.detach()));
  CHECK(worst_error(z, expected) <= 20 * tight<T>);
  CHECK(values[2] == 0);
  CHECK(values[4] == 0);
  backward(sum(z));
  for (const auto& gradient : {x.grad(), U.grad()})
    for (const double value : doubles(gradient)) CHECK(std::isfinite(value));
}

TEST_CASE("Operands of a gate's product that do not fit are refused by name") {
  const Layers<double> layers(3);
  CHECK(lacks<ShapeError>(
            [&] {
              unit_product(noise<double>({5, 3}), layers.A, layers.K, noise<double>({13, 4}));
            },
            {"unit_product", "14", "[13, 4]"}) == "");
  CHECK(lacks<ShapeError>(
            [&] {
              unit_product(noise<double>({5, 2}), layers.A, layers.K, noise<double>({14, 4}));
            },
            {"unit_product", "[9, 3]"}) == "");
}
