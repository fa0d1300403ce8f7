// transform: functors of no to three operands, in place too.

#include <doctest/doctest.h>

#include "testing.hpp"

using namespace mole;

namespace {

struct Fma {
  double operator()(double a, double b, double c) const { return a * b + c; }
};
struct Parity {
  Index operator()(double a) const { return static_cast<Index>(a) % 2; }
};

}  // namespace

TEST_CASE("Transform maps up to three arrays, also onto one of them") {
  constexpr Index n = 20000;
  auto a = Tensor<double>::empty({n}), b = Tensor<double>::full({n}, 2.0), c = Tensor<double>::full({n}, 1.0);
  for (Index i = 0; i < n; ++i) a.data()[i] = static_cast<double>(i);
  transform<Cpu>(n, Fma{}, c.data(), a.data(), b.data(), c.data());
  transform<Cpu>(n, functor::Subtract{}, a.data(), c.data(), a.data());
  bool right = true;
  for (Index i = 0; i < n; ++i)
    right =
        right && c.data()[i] == 2.0 * static_cast<double>(i) + 1 && a.data()[i] == static_cast<double>(i + 1);
  CHECK(right);
}

TEST_CASE("Transform may change the scalar") {
  const auto x = Tensor<double>::from({3}, {4, 5, 6});
  const auto y = Tensor<Index>::empty({3});
  transform<Cpu>(3, Parity{}, y.data(), x.data());
  CHECK(y.to_host() == std::vector<Index>{0, 1, 0});
}
