#include <vector>

#include <doctest/doctest.h>

#include <mole/mole.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

using List = std::vector<Tensor<double, Device>>;

/// Two outputs of two inputs and a parameter.
List part(const List& in, const Tensor<double, Device>& w) {
  const auto h = tanh(linear(in[0], w));
  return {mul(h, in[1]), sum(exp(h), {-1})};
}

}  // namespace

TEST_CASE("A part that is run again gives the gradients of the plain tape") {
  List gradients[2];
  for (const int way : {0, 1}) {
    auto x = noise<double>({3, 4}, 1).set_requires_grad(), y = noise<double>({3, 5}, 2).set_requires_grad(),
         w = noise<double>({5, 4}, 3).set_requires_grad();
    const auto z = square(x);
    const auto f = [w](const List& in) { return part(in, w); };
    const auto out = way == 0 ? f({z, y}) : checkpoint<double, Device>({z, y}, {w}, f);
    // w has another use, before and after.
    backward(sum(square(out[0])) + sum(out[1]) + sum(w) + sum(linear(x, w)));
    gradients[way] = {x.grad(), y.grad(), w.grad()};
  }
  for (std::size_t i = 0; i < 3; ++i) CHECK(worst_error(gradients[1][i], doubles(gradients[0][i])) < 1e-14);
}

TEST_CASE("One output of a part may be unused, an input of it may be frozen, and it may return an input") {
  auto x = noise<double>({2, 3}, 1).set_requires_grad();
  const auto frozen = noise<double>({2, 3}, 2);
  int runs = 0;
  const auto f = [&runs](const List& in) {
    ++runs;
    return List{mul(in[0], in[1]), in[0], exp(in[1])};
  };
  const auto out = checkpoint<double, Device>({x, frozen}, {}, f);
  CHECK(runs == 1);
  backward(sum(out[0]) + sum(scale(out[1], 2.0)));
  CHECK(runs == 2);
  CHECK(worst_error(x.grad(), doubles(shift(frozen, 2.0))) < 1e-15);
  CHECK(!frozen.grad().defined());
}

TEST_CASE("A part inside a part is run again with it") {
  auto x = noise<double>({4}, 1).set_requires_grad();
  const auto inner = [](const List& in) { return List{exp(in[0])}; };
  const auto outer = [inner](const List& in) {
    return List{square(checkpoint<double, Device>({tanh(in[0])}, {}, inner)[0])};
  };
  backward(sum(checkpoint<double, Device>({x}, {}, outer)[0]));
  const auto found = x.grad();
  x.zero_grad();
  backward(sum(square(exp(tanh(x)))));
  CHECK(worst_error(found, doubles(x.grad())) < 1e-15);
}

TEST_CASE("A part that needs no gradient leaves nothing on the tape") {
  const auto x = noise<double>({4}, 1);
  int runs = 0;
  const auto y = checkpoint<double, Device>({x}, {}, [&runs](const List& in) {
    ++runs;
    return List{exp(in[0])};
  });
  CHECK(!y[0].requires_grad());
  CHECK(runs == 1);
}
