// LoRA factors, their canonical form and the trainable expert.

#include <algorithm>
#include <cmath>
#include <vector>

#include <doctest/doctest.h>
#include <experts/experts.hpp>
#include <testing.hpp>

using namespace mole;
using namespace mole::testing;

namespace {

/// a [m, k] times b [k, n], or a^T b where `transposed` and a is [k, m].
std::vector<double> product(const std::vector<double>& a, const std::vector<double>& b, Index m, Index k,
                            Index n, bool transposed = false) {
  std::vector<double> c(static_cast<std::size_t>(m * n));
  for (Index i = 0; i < m; ++i)
    for (Index j = 0; j < n; ++j)
      for (Index l = 0; l < k; ++l)
        c[static_cast<std::size_t>(i * n + j)] +=
            a[static_cast<std::size_t>(transposed ? l * m + i : i * k + l)] *
            b[static_cast<std::size_t>(l * n + j)];
  return c;
}

std::vector<double> identity(Index n) {
  std::vector<double> one(static_cast<std::size_t>(n * n));
  for (Index i = 0; i < n; ++i) one[static_cast<std::size_t>(i * n + i)] = 1;
  return one;
}

}  // namespace

TEST_CASE("The canonical form has orthonormal columns and is the same change of the weight") {
  for (const auto& row : {std::array<Index, 3>{3, 7, 5}, {1, 4, 6}, {5, 3, 5}, {8, 6, 5}, {2, 1, 1}}) {
    const Index rank = row[0], d_in = row[1], d_out = row[2];
    CAPTURE(rank);
    CAPTURE(d_out);
    const auto lora = random_factors(rank, d_in, d_out, 1.75, 3);
    const auto c = canonical(lora);
    CHECK(c.rank == std::min(rank, d_out));
    CHECK(worst_error(product(c.Q, c.Q, c.rank, d_out, c.rank, true), identity(c.rank)) < 1e-14);
    CHECK(worst_error(product(c.Q, c.A, d_out, c.rank, d_in), delta(lora)) < 1e-13);
  }
}

TEST_CASE("The triangle of the canonical form has no negative diagonal") {
  const Index rank = 4, d_out = 6;
  auto lora = random_factors(rank, rank, d_out, 1, 5);
  // With A = 1 and s = 1 the folded factor is R itself.
  lora.A = identity(rank);
  const auto c = canonical(lora);
  for (Index i = 0; i < rank; ++i)
    for (Index j = 0; j <= i; ++j) {
      const double r = c.A[static_cast<std::size_t>(i * rank + j)];
      if (i == j)
        CHECK(r > 0);
      else
        CHECK(std::abs(r) < 1e-15);
    }
}

TEST_CASE("Changing the sign of B's columns and A's rows leaves the expert's output alone") {
  auto lora = random_factors(3, 4, 6, 0.5, 9), flipped = lora;
  for (double& value : flipped.A) value = -value;
  for (double& value : flipped.B) value = -value;
  const auto a = canonical(lora), b = canonical(flipped);
  CHECK(worst_error(product(a.Q, a.A, 6, 3, 4), product(b.Q, b.A, 6, 3, 4)) < 1e-14);
}

TEST_CASE("An expert with zero B is canonical with a zero down factor") {
  auto lora = random_factors(2, 4, 5, 2, 1);
  std::fill(lora.B.begin(), lora.B.end(), 0.0);
  const auto c = canonical(lora);
  CHECK(worst_error(product(c.Q, c.Q, 2, 5, 2, true), identity(2)) < 1e-15);
  for (const double value : c.A) CHECK(value == 0);
}

TEST_CASE("An expert whose B has a rank below its own is canonical all the same") {
  for (const auto& row : {std::array<Index, 2>{4, 9}, {6, 4}}) {
    const Index rank = row[0], d_out = row[1];
    CAPTURE(rank);
    auto lora = random_factors(rank, 5, d_out, 2, 1);
    // Two columns alike, one zero.
    for (Index o = 0; o < d_out; ++o) {
      double* const row = lora.B.data() + o * rank;
      row[1] = row[0];
      row[2] = 0;
    }
    const auto c = canonical(lora);
    CHECK(c.rank == std::min(rank, d_out));
    CHECK(worst_error(product(c.Q, c.Q, c.rank, d_out, c.rank, true), identity(c.rank)) < 1e-14);
    CHECK(worst_error(product(c.Q, c.A, d_out, c.rank, 5), delta(lora)) < 1e-13);
  }
}

TEST_CASE("The change of the weight is s B A") {
  const auto lora = random_factors(3, 7, 5, 1.75, 3);
  auto expected = product(lora.B, lora.A, 5, 3, 7);
  for (double& value : expected) value *= 1.75;
  CHECK(worst_error(delta(lora), expected) < 1e-14);
}

TEST_CASE("Factors that do not have their stated extents are refused") {
  auto lora = random_factors(2, 4, 5, 2, 1);
  lora.A.pop_back();
  CHECK(lacks<ShapeError>([&] { canonical(lora); }, {"canonical", "7", "10", "2", "5"}) == "");
  CHECK(lacks<ShapeError>([&] { delta(lora); }, {"delta", "7", "10", "2", "5"}) == "");
  CHECK_THROWS_AS(canonical(LoraFactors{}), ShapeError);
  CHECK_THROWS_AS(canonical({2, -4, -5, 1, std::vector<double>(8), std::vector<double>(10)}), ShapeError);
}

TEST_CASE_TEMPLATE("A fresh trainable LoRA changes nothing and gets a gradient in B", T, float, double) {
  const auto lora = make_lora<T, Device>(2, 4, 3, 1.5, {1, 2});
  const auto x = noise<T>({2, 5, 4});
  const auto y = lora_output(x, lora);
  CHECK(y.shape() == Shape{2, 5, 3});
  for (const T value : y.to_host()) CHECK(value == T(0));
  for (const T value : lora.down.to_host()) CHECK(std::abs(value) <= T(0.5));
  backward(sum(y));
  CHECK(worst_error(lora.down.grad(), std::vector<double>(8)) == 0);
  CHECK(worst_error(lora.up.grad(), std::vector<double>(6)) > 0.1);
  CHECK_THROWS_AS((make_lora<T, Device>(0, 4, 3, 1.5, {1, 2})), ArgumentError);
}
