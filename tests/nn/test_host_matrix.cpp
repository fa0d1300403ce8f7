// The QR and the products of small host matrices.

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include <doctest/doctest.h>
#include <mole/nn/host_matrix.hpp>
#include <testing.hpp>

using namespace mole;
using namespace mole::testing;

namespace {

using Numbers = std::vector<double>;

std::size_t at(Index row, Index columns, Index column) {
  return static_cast<std::size_t>(row * columns + column);
}

Numbers random_matrix(Index m, Index n, std::uint64_t seed) {
  return Tensor<double, Device>::randn({m, n}, {seed, 0}).to_host();
}

/// The largest |Q^T Q - 1|.
double from_orthonormal(const Numbers& Q, Index m, Index k) {
  double worst = 0;
  for (Index a = 0; a < k; ++a)
    for (Index b = 0; b < k; ++b) {
      double sum = a == b ? -1 : 0;
      for (Index i = 0; i < m; ++i) sum += Q[at(i, k, a)] * Q[at(i, k, b)];
      worst = std::isnan(sum) ? sum : std::max(worst, std::abs(sum));
    }
  return worst;
}

/// The largest error of a column of Q R, relative to the largest element of B's.
double from_product(const ThinQr& qr, const Numbers& B, Index m, Index n) {
  const Index k = std::min(m, n);
  double worst = 0;
  for (Index j = 0; j < n; ++j) {
    double largest = 0, error = 0;
    for (Index i = 0; i < m; ++i) {
      double sum = 0;
      for (Index l = 0; l < k; ++l) sum += qr.Q[at(i, k, l)] * qr.R[at(l, n, j)];
      largest = std::max(largest, std::abs(B[at(i, n, j)]));
      error = std::max(error, std::abs(sum - B[at(i, n, j)]));
    }
    worst = std::max(worst, largest > 0 ? error / largest : error);
  }
  return worst;
}

/// What must hold of any B.
void check_qr(const Numbers& B, Index m, Index n) {
  const auto qr = thin_qr(B, m, n);
  const Index k = std::min(m, n);
  REQUIRE(qr.Q.size() == static_cast<std::size_t>(m * k));
  REQUIRE(qr.R.size() == static_cast<std::size_t>(k * n));
  CHECK(from_orthonormal(qr.Q, m, k) < 2e-15);
  CHECK(from_product(qr, B, m, n) < 4e-15);
  for (Index i = 0; i < k; ++i) {
    CHECK(qr.R[at(i, n, i)] >= 0);
    for (Index j = 0; j < i; ++j) CHECK(qr.R[at(i, n, j)] == 0);
  }
}

}  // namespace

TEST_CASE("A thin QR has orthonormal columns, a triangle without negative diagonal, and their product is B") {
  for (const auto& row : {std::array<Index, 2>{1, 1}, {5, 3}, {3, 5}, {4, 4}, {1, 6}, {6, 1}, {97, 16}}) {
    const Index m = row[0], n = row[1];
    CAPTURE(m);
    CAPTURE(n);
    check_qr(random_matrix(m, n, 7), m, n);
  }
}

TEST_CASE("A thin QR of full rank is the one there is: that of 1 is 1, that of -1 has a negative Q") {
  const Numbers one{1, 0, 0, 0, 1, 0, 0, 0, 1};
  Numbers minus = one;
  for (double& value : minus) value = -value;
  CHECK(thin_qr(one, 3, 3).Q == one);
  CHECK(thin_qr(one, 3, 3).R == one);
  CHECK(worst_error(thin_qr(minus, 3, 3).Q, minus) == 0);
  CHECK(thin_qr(minus, 3, 3).R == one);
}

TEST_CASE("Columns that are zero, alike or sums of others keep Q orthonormal") {
  const Index m = 40, n = 6;
  const auto full = random_matrix(m, n, 3);
  auto with = [&](auto change) {
    auto B = full;
    for (Index i = 0; i < m; ++i) change(B.data() + i * n);
    return B;
  };
  check_qr(Numbers(full.size()), m, n);
  check_qr(with([](double* row) { row[0] = 0; }), m, n);
  check_qr(with([](double* row) { row[2] = row[5] = 0; }), m, n);
  check_qr(with([](double* row) { row[1] = row[0]; }), m, n);
  check_qr(with([](double* row) { row[3] = row[0] - 2 * row[1]; }), m, n);
  check_qr(with([](double* row) { row[1] = row[2] = row[3] = row[4] = row[5] = row[0]; }), m, n);
  // More columns than rows, of rank 1.
  check_qr(Numbers(15, 1), 3, 5);
}

TEST_CASE("Columns of very different sizes are factored as exactly as others") {
  const Index m = 30, n = 8;
  const double scales[n] = {1, 1e-18, 1e18, 1e-150, 1e150, 1e-290, 1e290, 1e-305};
  auto B = random_matrix(m, n, 11);
  for (Index i = 0; i < m; ++i)
    for (Index j = 0; j < n; ++j) B[at(i, n, j)] *= scales[j];
  check_qr(B, m, n);
  // Q does not see the scale of a column.
  const auto plain = thin_qr(random_matrix(m, n, 11), m, n), scaled = thin_qr(B, m, n);
  CHECK(worst_error(scaled.Q, plain.Q) < 1e-13);
}

TEST_CASE(
    "What little a column adds to those before it has a direction of unit length, however small it is") {
  for (const double size : {1e-17, 1e-160, 1e-300, 1e-320}) {
    CAPTURE(size);
    // The second column is the first but for one element.
    check_qr({1, 1, 0, size, 0, size}, 3, 2);
  }
}

TEST_CASE("A matrix with NaN or infinity has a QR that says so") {
  for (const double wild :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    auto B = random_matrix(5, 3, 2);
    B[4] = wild;
    const auto qr = thin_qr(B, 5, 3);
    CHECK(std::any_of(qr.Q.begin(), qr.Q.end(), [](double value) { return !std::isfinite(value); }));
  }
}

TEST_CASE("A product of host matrices is the sum it says, across its chunks") {
  const Index m = 3, k = 4, n = 1025;
  const auto a = random_matrix(m, k, 1), b = random_matrix(k, n, 2);
  Numbers expected(static_cast<std::size_t>(m * n));
  for (Index i = 0; i < m; ++i)
    for (Index j = 0; j < n; ++j) {
      double sum = 0;
      for (Index l = 0; l < k; ++l) sum += a[at(i, k, l)] * b[at(l, n, j)];
      expected[at(i, n, j)] = 0.5 * sum;
    }
  CHECK(worst_error(detail::host_product(0.5, a, b, m, k, n), expected) < 1e-14);
  CHECK(detail::host_product(2, {}, {}, 2, 0, 3) == Numbers(6));
  CHECK(detail::host_transpose({1, 2, 3, 4, 5, 6}, 2, 3) == Numbers{1, 4, 2, 5, 3, 6});
}

TEST_CASE("A symmetric matrix is its lower triangle times that turned, also where rows depend on others") {
  const Index n = 5;
  for (const Index rank : {5, 3, 1}) {
    // K of `rank` random vectors; with fewer than n, some columns of L are zero.
    std::vector<double> A(static_cast<std::size_t>(rank * n)), At(A.size());
    for (Index i = 0; i < rank; ++i)
      for (Index j = 0; j < n; ++j)
        At[static_cast<std::size_t>(j * rank + i)] = A[static_cast<std::size_t>(i * n + j)] =
            normal({3, 1}, i * n + j);
    const auto K = detail::host_product(1, At, A, n, rank, n);
    auto L = K;
    std::vector<double> inverse, turned(K.size());
    cholesky(L, n, 1e-12, inverse);
    Index zeros = 0;
    for (Index i = 0; i < n; ++i) {
      zeros += L[static_cast<std::size_t>(i * n + i)] == 0 ? 1 : 0;
      for (Index j = 0; j < n; ++j) {
        turned[static_cast<std::size_t>(j * n + i)] = L[static_cast<std::size_t>(i * n + j)];
        if (j > i) CHECK(L[static_cast<std::size_t>(i * n + j)] == 0);
      }
    }
    CHECK(zeros == n - rank);
    CHECK(worst_error(detail::host_product(1, L, turned, n, n, n), K) <= 1e-13);
    // What L makes of y, and so K of anything, goes back to it.
    const auto back = detail::host_product(1, inverse, K, n, n, n);
    CHECK(worst_error(detail::host_product(1, L, back, n, n, n), K) <= 1e-12);
  }
}
