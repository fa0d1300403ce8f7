// The checker itself: it must find wrong pullbacks, and say where.

#include <doctest/doctest.h>

#include <mole/mole.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

using D = Tensor<double, Device>;

/// y = 3 x with a pullback that is wrong by `error` at one element.
D tripled(const D& x, double error) {
  return record({x}, x.detach() * 3.0, [error](const D&, const D& G) {
    std::vector<double> factors(static_cast<std::size_t>(G.size()), 3);
    factors[1] += error;
    return G * D::from(G.shape(), factors);
  });
}

}  // namespace

TEST_CASE("A right pullback passes, and every entry of the Jacobian is compared") {
  const auto result = grad_check<Device>([](const auto& v) { return v[0] * v[1]; },
                                         {noise<double>({2, 3}), noise<double>({3}, 1)});
  CHECK(result.ok);
  CHECK(result.compared == 6 * 6 + 3 * 6);
  CHECK(result.worst <= 1e-7);
}

TEST_CASE("An error in one entry of a pullback is found and named") {
  const auto x = noise<double>({4});
  CHECK(grad_check<Device>([](const auto& v) { return tripled(v[0], 0); }, {x}).ok);
  const auto result = grad_check<Device>([](const auto& v) { return tripled(v[0], 1e-4); }, {x});
  CHECK_FALSE(result.ok);
  CHECK(result.worst > 1e-5);
  CHECK(result.where.find("d y 1 / d input 0 element 1") != std::string::npos);
}

TEST_CASE("A missing gradient and a NaN are errors") {
  const auto x = noise<double>({2});
  CHECK_FALSE(grad_check<Device>([](const auto& v) { return v[0] + v[1].detach(); }, {x, x}).ok);
  const auto bad = grad_check<Device>([](const auto& v) { return tripled(v[0], std::nan("")); }, {x});
  CHECK_FALSE(bad.ok);
  CHECK(std::isinf(bad.worst));
}

TEST_CASE("Skipped elements are left out; a check of nothing does not pass") {
  GradCheckOptions options;
  options.skip = [](std::size_t input, Index element) { return input == 0 && element == 1; };
  const auto x = noise<double>({4});
  const auto result = grad_check<Device>([](const auto& v) { return tripled(v[0], 1); }, {x}, options);
  CHECK(result.ok);
  CHECK(result.compared == 12);
  options.skip = [](std::size_t, Index) { return true; };
  CHECK_FALSE(grad_check<Device>([](const auto& v) { return tripled(v[0], 0); }, {x}, options).ok);
}

TEST_CASE("The inputs are left as they were") {
  const auto x = noise<double>({3});
  const auto before = x.to_host();
  grad_check<Device>([](const auto& v) { return square(v[0]); }, {x});
  CHECK(x.to_host() == before);
  CHECK_FALSE(x.requires_grad());
  CHECK_FALSE(x.grad().defined());
}
