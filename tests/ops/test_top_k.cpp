// The k largest of each row, and each row's own choice of elements.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include <doctest/doctest.h>

#include <mole/autodiff/grad_check.hpp>
#include <mole/mole.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

TEST_CASE_TEMPLATE("The k largest come in their order, of equal ones the first before", T, float, double,
                   bf16) {
  const auto x = Tensor<T, Device>::from({2, 5}, {1, 4, 4, -2, 3, 0, 0, 0, 0, 0});
  CHECK(top_k_indices(x, 1).to_host() == std::vector<Index>{1, 0});
  CHECK(top_k_indices(x, 3).to_host() == std::vector<Index>{1, 2, 4, 0, 1, 2});
  CHECK(top_k_indices(x, 5).to_host() == std::vector<Index>{1, 2, 4, 0, 3, 0, 1, 2, 3, 4});
  CHECK(top_k_indices(reshape(x, {2, 1, 5}), 2).shape() == Shape{2, 1, 2});
  CHECK(doubles(top_k_mask(x, 3)) == std::vector<double>{0, 1, 1, 0, 1, 1, 1, 1, 0, 0});
}

TEST_CASE("A row of NaN and infinities still has k different indices, NaN first") {
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  const auto x = Tensor<double, Device>::from({2, 4}, {inf, nan, -inf, nan, nan, nan, nan, nan});
  CHECK(top_k_indices(x, 4).to_host() == std::vector<Index>{1, 3, 0, 2, 0, 1, 2, 3});
  CHECK(doubles(top_k_mask(x, 2)) == std::vector<double>{0, 1, 0, 1, 1, 1, 0, 0});
}

TEST_CASE_TEMPLATE("A few of many come in the order that sorting gives", T, float, double, bf16) {
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  constexpr Index n = 203;
  std::vector<std::vector<double>> rows(6, std::vector<double>(n));
  for (Index j = 0; j < n; ++j) {
    const auto at = static_cast<std::size_t>(j);
    rows[0][at] = uniform({5, 1}, j);
    rows[1][at] = std::floor(4 * uniform({5, 2}, j));  // many are equal
    rows[2][at] = 0.5;
    rows[3][at] = j % 50 == 7 ? nan : j % 40 == 3 ? inf : uniform({5, 3}, j);
    rows[4][at] = j == 100 ? 1 : -inf;
    rows[5][at] = -static_cast<double>(j);
  }
  std::vector<T> values;
  for (const auto& row : rows)
    for (const double value : row) values.push_back(static_cast<T>(value));
  const auto x = Tensor<T, Device>::from({6, n}, values);
  const auto stored = doubles(x);
  for (const Index k : {1, 2, 5, 50, 51}) {
    std::vector<Index> expected;
    std::vector<double> mask(stored.size());
    for (std::size_t row = 0; row < rows.size(); ++row) {
      const double* const from = stored.data() + row * n;
      std::vector<Index> order(n);
      std::iota(order.begin(), order.end(), Index{0});
      std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) {
        if (std::isnan(from[a]) || std::isnan(from[b])) return std::isnan(from[a]) && !std::isnan(from[b]);
        return from[a] > from[b];
      });
      for (Index i = 0; i < k; ++i) {
        expected.push_back(order[static_cast<std::size_t>(i)]);
        mask[row * n + static_cast<std::size_t>(expected.back())] = 1;
      }
    }
    CHECK(top_k_indices(x, k).to_host() == expected);
    CHECK(doubles(top_k_mask(x, k)) == mask);
  }
}

TEST_CASE("More than a row has, or none, is refused by name") {
  const auto x = Tensor<float, Device>::ones({2, 3});
  CHECK(lacks<ArgumentError>([&] { top_k_indices(x, 4); }, {"top_k_indices", "[1, 3 ]", "4"}) == "");
  CHECK(lacks<ArgumentError>([&] { top_k_mask(x, 0); }, {"top_k_mask", "0"}) == "");
  CHECK_THROWS_AS(top_k_indices(Tensor<float, Device>::scalar(1), 1), ShapeError);
}

TEST_CASE("Taken elements send their gradients back to where they were, repeated ones their sum") {
  using D = Tensor<double, Device>;
  const auto x = noise<double>({2, 2, 3}, 1);
  const auto index = Tensor<Index, Device>::from({2, 2, 4}, {0, 2, 2, 1, 1, 1, 1, 1, 2, 0, 1, 0, 0, 0, 2, 2});
  const auto values = doubles(x), taken = doubles(take(x, index));
  const auto at = index.to_host();
  for (std::size_t i = 0; i < taken.size(); ++i)
    CHECK(taken[i] == values[i / 4 * 3 + static_cast<std::size_t>(at[i])]);
  const auto result =
      grad_check<Device>([&](const std::vector<D>& in) { return square(take(in[0], index)); }, {x});
  CHECK_MESSAGE(result.ok, result.worst, " ", result.where);
  CHECK(lacks<ShapeError>(
            [&] {
              take(x, Tensor<Index, Device>::from({2, 2, 1}, {0, 1, 3, 0}));
            },
            {"take", "index 3"}) == "");
  CHECK(lacks<ShapeError>(
            [&] {
              take(x, Tensor<Index, Device>::from({4, 1}, {0, 0, 0, 0}));
            },
            {"take", "[2, 2, 3]", "[4, 1]"}) == "");
}

TEST_CASE("A chosen mixture is the mixture of each sequence with its own experts") {
  using D = Tensor<double, Device>;
  const Index S = 3, L = 2, d_in = 4, d_out = 5, N = 4, k = 2, r = 3;
  const auto x = noise<double>({S, L, d_in}, 1), g = noise<double>({S, k}, 2),
             W = noise<double>({d_out, d_in}, 3), A = noise<double>({N, r * d_in}, 4),
             Q = noise<double>({N, r * d_out}, 5);
  const std::vector<Index> chosen{2, 0, 3, 1, 1, 1};
  const auto columns = Tensor<Index, Device>::from({S, k}, chosen);
  const auto place = Tensor<Index, Device>::from({k * r}, {0, 0, 0, 1, 1, 1});
  for (const auto& c : {D(), noise<double>({d_out}, 6)}) {
    const auto y = chosen_mixture(x, W, c, A, Q, columns, g, place);
    for (Index s = 0; s < S; ++s) {
      const auto at = Tensor<Index, Device>::from(
          {k}, {chosen[static_cast<std::size_t>(k * s)], chosen[static_cast<std::size_t>(k * s + 1)]});
      const auto x_s = slice(x, 0, s, s + 1);
      const auto A_s = reshape(gather(A, at), {k * r, d_in}), Q_s = reshape(gather(Q, at), {k * r, d_out});
      const auto expected =
          mixture(x_s, W, c, linear(x_s, A_s), slice(g, 0, s, s + 1), transpose(Q_s), place);
      CHECK(worst_error(slice(y, 0, s, s + 1), doubles(expected)) < 1e-14);
    }
    const auto result = grad_check<Device>(
        [&](const std::vector<D>& in) {
          // x is also read elsewhere: its gradient is added to.
          return add(sum(square(chosen_mixture(in[0], W, c, A, Q, columns, in[1], place))),
                     sum(square(in[0])));
        },
        {x, g});
    CHECK_MESSAGE(result.ok, result.worst, " ", result.where);
  }
  auto error = [&](const D& weights, const Tensor<Index, Device>& of) {
    return [&x, &W, &A, &Q, weights, of, &place] { chosen_mixture(x, W, D(), A, Q, of, weights, place); };
  };
  CHECK(lacks<ShapeError>(error(noise<double>({S, 3}), columns), {"chosen_mixture", "[3, 2]", "[3, 3]"}) ==
        "");
  CHECK(lacks<ShapeError>(error(g, Tensor<Index, Device>::from({S, k}, {0, 0, 4, 0, 0, 0})), {"index 4"}) ==
        "");
}
