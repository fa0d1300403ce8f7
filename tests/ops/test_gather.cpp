// Rows by index: repeated ones, none, and wild ones.

#include <doctest/doctest.h>

#include <mole/mole.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

Tensor<Index, Device> ids(const Shape& shape, std::vector<Index> values) {
  return Tensor<Index, Device>::from(shape, values);
}

}  // namespace

TEST_CASE_TEMPLATE("gather and scatter_add with repeated indices equal a loop over rows", T, float, double) {
  for (const Index width : {0, 1, 5, 16, 17, 40}) {
    constexpr Index rows = 7;
    const Shape places{3, 4};
    std::vector<Index> at;
    for (Index i = 0; i < 12; ++i) at.push_back(i * i % 5);
    const auto table = noise<T>({rows, width}, 1), x = noise<T>({3, 4, width}, 2);
    const auto from = doubles(table), add = doubles(x);
    std::vector<double> gathered, scattered(static_cast<std::size_t>(rows * width));
    for (std::size_t i = 0; i < 12; ++i)
      for (Index j = 0; j < width; ++j) {
        gathered.push_back(from[static_cast<std::size_t>(at[i] * width + j)]);
        scattered[static_cast<std::size_t>(at[i] * width + j)] += add[gathered.size() - 1];
      }
    const auto y = gather(table, ids(places, at)), z = scatter_add(x, ids(places, at), rows);
    CHECK(y.shape() == Shape{3, 4, width});
    CHECK(z.shape() == Shape{rows, width});
    CHECK(worst_error(y, gathered) == 0);
    CHECK(worst_error(z, scattered) <= tight<T>);
    CHECK(embedding(table, ids(places, at)).to_host() == y.to_host());
  }
}

TEST_CASE("A wild index is refused before anything is read or written") {
  const auto table = Tensor<float, Device>::ones({4, 3}), x = Tensor<float, Device>::ones({2, 3});
  CHECK(lacks<ShapeError>(
            [&] {
              gather(table, ids({2}, {0, 4}));
            },
            {"gather", "index 4", "position 1", "4"}) == "");
  CHECK(lacks<ShapeError>([&] { gather(table, ids({1}, {-1})); }, {"gather", "index -1", "position 0"}) ==
        "");
  CHECK(lacks<ShapeError>([&] { embedding(table, ids({1}, {1000})); }, {"index 1000"}) == "");
  CHECK(lacks<ShapeError>([&] { scatter_add(x, ids({2}, {0, 9}), 4); }, {"scatter_add", "index 9"}) == "");
  CHECK(lacks<ShapeError>([&] { gather(Tensor<float, Device>::ones({4}), ids({1}, {0})); },
                          {"gather", "[4]"}) == "");
  CHECK(lacks<ShapeError>(
            [&] {
              scatter_add(x, ids({3}, {0, 1, 2}), 4);
            },
            {"scatter_add", "[3, 3]", "[2, 3]"}) == "");
  CHECK(lacks<ShapeError>([&] { scatter_add(x, ids({}, {0}), 4); }, {"scatter_add", "[2, 3]", "[]"}) == "");
  CHECK(lacks<ShapeError>(
            [&] {
              gather(Tensor<float, Device>::ones({0, 3}), ids({1}, {0}));
            },
            {"gather", "index 0"}) == "");
}
