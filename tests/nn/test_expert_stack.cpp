// A layer's experts side by side, and some of them alone.

#include <vector>

#include <doctest/doctest.h>
#include <nn/experts.hpp>
#include <testing.hpp>

using namespace mole;
using namespace mole::testing;
using D = Tensor<double, Device>;
using Row = std::vector<double>;

TEST_CASE("columns left out of a stack take only their own ranks with them") {
  // The gate holds four experts, of which this layer has three.
  const auto stack = stack_experts<double, Device>({{4, random_factors(2, 6, 5, 0.5, 1)},
                                                    {5, random_factors(7, 6, 5, 0.25, 2)},
                                                    {9, random_factors(1, 6, 5, 2, 3)}},
                                                   {4, 5, 7, 9});
  const auto part = only_columns(stack, {0, 2, 3});
  CHECK(part.experts == std::vector<Index>{4, 9});
  CHECK(part.ends == std::vector<Index>{2, 3});
  CHECK(part.column.to_host() == std::vector<Index>{0, 0, 2});
  const auto A = doubles(stack.A), Q = doubles(stack.Q);
  Row rows(A.begin(), A.begin() + 12), columns;
  rows.insert(rows.end(), A.end() - 6, A.end());
  for (std::size_t o = 0; o < 5; ++o) columns.insert(columns.end(), {Q[8 * o], Q[8 * o + 1], Q[8 * o + 7]});
  CHECK(doubles(part.A) == rows);
  CHECK(doubles(part.Q) == columns);
  CHECK_FALSE(only_columns(stack, {2}).A.defined());
}

TEST_CASE("the columns of a gate that any row uses are found, and taken with their gradient") {
  const auto g = D::from({2, 3}, {0, 0, 0.5, 0, 0, 1}).set_requires_grad();
  CHECK(used_columns(g) == std::vector<Index>{2});
  const auto taken = columns_of(g, {0, 2});
  CHECK(doubles(taken) == Row{0, 0.5, 0, 1});
  backward(taken, D::from({2, 2}, {1, 2, 3, 4}));
  CHECK(doubles(g.grad()) == Row{1, 0, 2, 3, 0, 4});
}
