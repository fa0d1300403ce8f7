// Reshape, permute, slice and concat against index arithmetic.

#include <doctest/doctest.h>
#include <algorithm>

#include <mole/mole.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

TEST_CASE_TEMPLATE("permute puts every element in its place, for all orders of four axes", T, float, double) {
  const auto x = noise<T>({2, 3, 4, 5});
  const auto values = x.to_host();
  std::vector<int> order{0, 1, 2, 3};
  do {
    const auto y = permute(x, order);
    std::vector<T> expected;
    std::array<Index, 4> at{};
    const auto extent = [&](std::size_t i) { return x.size(order[i]); };
    for (at[0] = 0; at[0] < extent(0); ++at[0])
      for (at[1] = 0; at[1] < extent(1); ++at[1])
        for (at[2] = 0; at[2] < extent(2); ++at[2])
          for (at[3] = 0; at[3] < extent(3); ++at[3]) {
            std::array<Index, 4> from{};
            for (std::size_t i = 0; i < 4; ++i) from[static_cast<std::size_t>(order[i])] = at[i];
            expected.push_back(
                values[static_cast<std::size_t>(((from[0] * 3 + from[1]) * 4 + from[2]) * 5 + from[3])]);
          }
    CHECK(y.shape() == Shape{extent(0), extent(1), extent(2), extent(3)});
    CHECK(y.to_host() == expected);
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST_CASE("permute takes axes from the end, and transpose exchanges two") {
  const auto x = noise<double>({2, 3, 4});
  CHECK(permute(x, {-1, 0, -2}).to_host() == permute(x, {2, 0, 1}).to_host());
  CHECK(transpose(x).to_host() == permute(x, {0, 2, 1}).to_host());
  CHECK(transpose(x, 0, 2).to_host() == permute(x, {2, 1, 0}).to_host());
  CHECK(permute(Tensor<double, Device>::scalar(3), {}).item() == 3);
}

TEST_CASE("reshape keeps the elements, shares the memory and infers one extent") {
  const auto x = noise<float>({4, 6});
  const auto y = reshape(x, {2, -1, 3});
  CHECK(y.shape() == Shape{2, 4, 3});
  CHECK(y.data() == x.data());
  CHECK(reshape(x, Shape{24}).shape() == Shape{24});
  CHECK(reshape(Tensor<float, Device>::ones({0, 5}), {-1, 5}).shape() == Shape{0, 5});
  CHECK(reshape(Tensor<float, Device>::ones({}), {1, 1}).shape() == Shape{1, 1});
}

TEST_CASE_TEMPLATE("The slices of a tensor, joined again, are the tensor", T, float, double) {
  const auto x = noise<T>({4, 5, 6});
  for (int axis = -3; axis < 3; ++axis)
    for (Index cut = 0; cut <= x.size(axis); ++cut) {
      const auto low = slice(x, axis, 0, cut), high = slice(x, axis, cut, x.size(axis));
      CHECK(low.shape() == x.shape().with(axis, cut));
      const auto joined = concat<T, Device>({low, high}, axis);
      CHECK(joined.shape() == x.shape());
      CHECK(joined.to_host() == x.to_host());
    }
}

TEST_CASE("slice takes the elements of its range and no others") {
  const auto x = Tensor<float, Device>::from({2, 3}, {1, 2, 3, 4, 5, 6});
  CHECK(slice(x, 1, 1, 3).to_host() == std::vector<float>{2, 3, 5, 6});
  CHECK(slice(x, 0, 1, 2).to_host() == std::vector<float>{4, 5, 6});
  CHECK(concat<float, Device>({x, Tensor<float, Device>::from({2, 1}, {9, 8})}, 1).to_host() ==
        std::vector<float>{1, 2, 3, 9, 4, 5, 6, 8});
}

TEST_CASE("Layouts that do not fit are refused by name") {
  const auto x = Tensor<float, Device>::ones({2, 3});
  CHECK(lacks<ShapeError>([&] { reshape(x, {4}); }, {"reshape", "[2, 3]", "[4]"}) == "");
  CHECK(lacks<ShapeError>([&] { reshape(x, {-1, 4}); }, {"reshape", "[2, 3]"}) == "");
  CHECK(lacks<ShapeError>([&] { reshape(x, {-1, -1}); }, {"reshape", "-1"}) == "");
  CHECK(lacks<ShapeError>([&] { reshape(x, {-2, -3}); }, {"negative", "-2"}) == "");
  CHECK(lacks<ShapeError>([&] { permute(x, {0}); }, {"permute", "[2, 3]"}) == "");
  CHECK(lacks<ShapeError>([&] { permute(x, {0, 0}); }, {"permute", "[2, 3]", "twice"}) == "");
  CHECK(lacks<ShapeError>([&] { permute(x, {0, 2}); }, {"permute", "[2, 3]", "axis 2"}) == "");
  CHECK(lacks<ShapeError>([&] { transpose(Tensor<float, Device>::ones({3})); }, {"transpose", "[3]"}) == "");
  CHECK(lacks<ShapeError>([&] { slice(x, 1, 2, 4); }, {"slice", "4", "axis 1", "[2, 3]"}) == "");
  CHECK(lacks<ShapeError>([&] { slice(x, 1, -1, 1); }, {"slice", "-1", "[2, 3]"}) == "");
  CHECK(lacks<ShapeError>([&] { slice(x, 1, 2, 1); }, {"slice", "[2, 3]"}) == "");
  CHECK(lacks<ShapeError>([&] { slice(x, 2, 0, 1); }, {"slice", "axis 2", "[2, 3]"}) == "");
  CHECK(lacks<ShapeError>([&] { concat<float, Device>({}, 0); }, {"concat"}) == "");
  CHECK(lacks<ShapeError>(
            [&] {
              concat<float, Device>({x, Tensor<float, Device>::ones({2, 4})}, 0);
            },
            {"concat", "[2, 3]", "[2, 4]"}) == "");
  CHECK(lacks<ShapeError>(
            [&] {
              concat<float, Device>({x, Tensor<float, Device>::ones({2})}, 1);
            },
            {"concat", "[2, 3]", "[2]"}) == "");
}

TEST_CASE("Rows of up to 20,000 numbers are joined and cut, whatever they are copied in") {
  for (const Index n : {0, 1, 4095, 4096, 4097, 20000})
    for (const Index rows : {1, 3}) {
      CAPTURE(message(rows, n));
      const auto a = noise<double>({rows, n}, 1), b = noise<double>({rows, 7}, 2);
      const auto both = concat<double, Device>({a, b}, 1);
      const auto joined = doubles(both), left = doubles(a), right = doubles(b);
      const auto part = doubles(slice(both, 1, n / 2, n + 3));
      std::vector<double> expected, cut;
      for (Index r = 0; r < rows; ++r) {
        std::vector<double> row(left.begin() + r * n, left.begin() + (r + 1) * n);
        row.insert(row.end(), right.begin() + r * 7, right.begin() + (r + 1) * 7);
        expected.insert(expected.end(), row.begin(), row.end());
        cut.insert(cut.end(), row.begin() + n / 2, row.begin() + n + 3);
      }
      CHECK(joined == expected);
      CHECK(part == cut);
    }
}
