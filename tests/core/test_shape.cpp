// Shapes: extents, axes from the end, and what cannot be a shape.

#include <doctest/doctest.h>

#include <mole/core/shape.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

TEST_CASE("A shape knows its rank, its size and its axes from either end") {
  const Shape shape{2, 3, 5};
  CHECK(shape.rank() == 3);
  CHECK(shape.size() == 30);
  CHECK(shape[0] == 2);
  CHECK(shape[-1] == 5);
  CHECK(shape.axis(-3) == 0);
  CHECK(shape.size(1, 3) == 15);
  CHECK(shape.size(1, 1) == 1);
  CHECK(Shape{}.rank() == 0);
  CHECK(Shape{}.size() == 1);
  CHECK(Shape{4, 0, 3}.size() == 0);
  CHECK(std::vector<Index>(shape.begin(), shape.end()) == std::vector<Index>{2, 3, 5});
}

TEST_CASE("Shapes are equal when all extents are") {
  CHECK(Shape{2, 3} == Shape(std::vector<Index>{2, 3}));
  CHECK_FALSE(Shape{2, 3} == Shape{3, 2});
  CHECK_FALSE(Shape{2} == Shape{2, 1});
  CHECK_FALSE(Shape{0, 3} == Shape{0, 2});
  CHECK(Shape{2, 3}.with(-1, 7) == Shape{2, 7});
  CHECK(message(Shape{2, 3}, Shape{}) == "[2, 3] []");
}

TEST_CASE("What cannot be a shape is refused") {
  constexpr Index big = Index{1} << 32;
  CHECK(lacks<ShapeError>([] { Shape{2, -1}; }, {"negative", "-1"}) == "");
  CHECK(lacks<ShapeError>([] { Shape{big, big}; }, {"overflow", "4294967296"}) == "");
  CHECK(lacks<ShapeError>([] { Shape{1, 1, 1, 1, 1, 1, 1, 1, 1}; }, {"8", "9"}) == "");
  CHECK(lacks<ShapeError>([] { Shape({2, 3})[2]; }, {"axis 2", "rank 2"}) == "");
  CHECK(lacks<ShapeError>([] { Shape({2, 3})[-3]; }, {"axis -3", "rank 2"}) == "");
  CHECK(lacks<ShapeError>([] { Shape({2, 3}).with(0, -4); }, {"negative", "-4"}) == "");
  Shape full{1, 1, 1, 1, 1, 1, 1, 1};
  CHECK_THROWS_AS(full.push_back(1), ShapeError);
  CHECK(full.rank() == 8);
}
