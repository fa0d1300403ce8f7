// Broadcasting against a reference that walks multi-indices.

#include <doctest/doctest.h>
#include <random>

#include <mole/mole.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

/// The element of a tensor of `shape` that element i of `whole` reads.
std::size_t source(const Shape& whole, const Shape& shape, Index i) {
  Index offset = 0, step = 1;
  for (int axis = 1; axis <= whole.rank(); ++axis) {
    const Index at = i % whole[-axis];
    i /= whole[-axis];
    if (axis > shape.rank()) continue;
    offset += (shape[-axis] == 1 ? 0 : at) * step;
    step *= shape[-axis];
  }
  return static_cast<std::size_t>(offset);
}

/// A random shape, and the same with some extents 1 and some leading axes gone.
struct ShapePairs {
  std::mt19937 random{7};

  int pick(int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); }
  Shape whole() {
    Shape shape;
    for (int rank = pick(6); rank > 0; --rank) shape.push_back(pick(12) == 0 ? 0 : 1 + pick(4));
    return shape;
  }
  Shape part(const Shape& whole, bool may_drop) {
    Shape shape;
    for (int i = may_drop && whole.rank() > 0 ? pick(whole.rank() + 1) : 0; i < whole.rank(); ++i)
      shape.push_back(pick(2) == 0 ? 1 : whole[i]);
    return shape;
  }
};

}  // namespace

TEST_CASE_TEMPLATE("Arithmetic of randomly shaped operands equals a naive loop", T, float, double) {
  ShapePairs pairs;
  for (int trial = 0; trial < 600; ++trial) {
    const Shape whole = pairs.whole();
    const bool first = pairs.pick(2) == 0;
    const Shape sa = pairs.part(whole, first), sb = pairs.part(whole, !first);
    const auto a = noise<T>(sa, 1), b = noise<T>(sb, 2);
    const Shape common = detail::broadcast_shape("test", sa, sb);
    CAPTURE(sa);
    CAPTURE(sb);
    const auto va = a.to_host(), vb = b.to_host();
    std::vector<T> difference, quotient;
    for (Index i = 0; i < common.size(); ++i) {
      const T p = va[source(common, sa, i)], q = vb[source(common, sb, i)];
      difference.push_back(p - q);
      quotient.push_back(p / q);
    }
    const auto got = a - b;
    CHECK(got.shape() == common);
    CHECK(got.to_host() == difference);
    CHECK((a / b).to_host() == quotient);
  }
}

TEST_CASE_TEMPLATE("sum_to adds up exactly what a broadcast repeated", T, float, double) {
  ShapePairs pairs;
  for (int trial = 0; trial < 600; ++trial) {
    const Shape whole = pairs.whole(), shape = pairs.part(whole, true);
    CAPTURE(whole);
    CAPTURE(shape);
    const auto G = noise<T>(whole);
    const auto values = doubles(G);
    std::vector<double> expected(static_cast<std::size_t>(shape.size()));
    for (Index i = 0; i < whole.size(); ++i)
      expected[source(whole, shape, i)] += values[static_cast<std::size_t>(i)];
    const auto got = detail::sum_to(G, shape);
    CHECK(got.shape() == shape);
    CHECK(worst_error(got, expected) <= 10 * tight<T>);
  }
}

TEST_CASE("Rows of a broadcast are long: axes that both operands walk alike are one") {
  const detail::BroadcastLayout bias({5, 6, 7}, {7}, {5, 6, 7});
  CHECK(bias.rank == 2);
  CHECK(bias.inner() == 7);
  const detail::BroadcastLayout batch({5, 6, 7}, {6, 7}, {5, 6, 7});
  CHECK(batch.rank == 2);
  CHECK(batch.inner() == 42);
  const detail::BroadcastLayout scalar({5, 6, 7}, {}, {5, 6, 7});
  CHECK(scalar.rank == 1);
  CHECK(scalar.inner() == 210);
  const detail::BroadcastLayout one({1, 1}, {1}, {1, 1});
  CHECK(one.rank == 0);
  CHECK(one.inner() == 1);
}

TEST_CASE_TEMPLATE(
    "One number is added to a long tensor by several rows, where its length has parts for them", T, float,
    double) {
  for (const Index n : {4096, 8192, 4096 * 3, 4096 + 256, 4096 + 255, 5001}) {
    CAPTURE(n);
    const auto x = noise<T>({n}), one = noise<T>({}, 2);
    const auto values = x.to_host();
    const T still = one.item();
    std::vector<T> after, before;
    for (const T value : values) after.push_back(value - still), before.push_back(still - value);
    CHECK((x - one).to_host() == after);
    CHECK((one - x).to_host() == before);
    detail::BroadcastLayout layout({n}, {}, {n});
    layout.cut_single_row();
    CHECK(layout.extent[0] * (layout.rank == 2 ? layout.extent[1] : 1) == n);
    CHECK((layout.rank == 2) == (n > 4096 && n % 256 == 0));
  }
}

TEST_CASE("Shapes that do not broadcast are refused by the name of the op") {
  const auto a = Tensor<float, Device>::ones({2, 3}), b = Tensor<float, Device>::ones({4});
  CHECK(lacks<ShapeError>([&] { a + b; }, {"add", "[2, 3]", "[4]"}) == "");
  CHECK(lacks<ShapeError>([&] { a - b; }, {"sub", "[2, 3]", "[4]"}) == "");
  CHECK(lacks<ShapeError>([&] { b* a; }, {"mul", "[4]", "[2, 3]"}) == "");
  CHECK(lacks<ShapeError>([&] { a / b; }, {"div", "[2, 3]", "[4]"}) == "");
  CHECK(lacks<ShapeError>(
            [&] {
              Tensor<float, Device>::ones({0, 3}) + a;
            },
            {"add", "[0, 3]", "[2, 3]"}) == "");
  CHECK(lacks<ShapeError>([&] { mse(a, b); }, {"[2, 3]", "[4]"}) == "");
}

TEST_CASE("An undefined operand is refused") {
  const auto a = Tensor<float, Device>::ones({2});
  CHECK(lacks<ArgumentError>([&] { a + Tensor<float, Device>(); }, {"undefined"}) == "");
}
