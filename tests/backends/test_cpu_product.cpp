// The library's own matrix product, which stands in for a BLAS that is not made for the processor.

#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <vector>

#include <mole/backends/cpu_product.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

TEST_CASE_TEMPLATE(
    "A product by blocks equals a loop: transposes, padding, alpha, beta, and what fills no block", T, float,
    double) {
  // m, n, k: single elements; less and more than a register, a panel, the rows of A at a time and a part
  // of the sums; nothing to sum.
  for (const auto& extents : {std::array<Index, 3>{1, 1, 1},
                              {3, 5, 7},
                              {9, 16, 32},
                              {13, 83, 20},
                              {2, 170, 35},
                              {5, 3, 1100},
                              {1, 500, 3},
                              {530, 9, 12},
                              {4, 6, 0}})
    for (const bool ta : {false, true})
      for (const bool tb : {false, true})
        for (const double beta : {0.0, 1.0, -0.5}) {
          const Index m = extents[0], n = extents[1], k = extents[2];
          Gemm g{.transpose_a = ta, .transpose_b = tb, .m = m, .n = n, .k = k, .alpha = 1.5, .beta = beta};
          g.lda = (ta ? m : k) + 2, g.ldb = (tb ? k : n) + 1, g.ldc = n + 3;
          const auto a = noise<T>({(ta ? k : m) * g.lda}, 1), b = noise<T>({(tb ? n : k) * g.ldb}, 2),
                     c = noise<T>({m * g.ldc}, 3);
          const auto va = doubles(a), vb = doubles(b);
          auto expected = doubles(c);
          for (Index i = 0; i < m; ++i)
            for (Index j = 0; j < n; ++j) {
              double dot = 0;
              for (Index l = 0; l < k; ++l)
                dot += va[static_cast<std::size_t>(ta ? l * g.lda + i : i * g.lda + l)] *
                       vb[static_cast<std::size_t>(tb ? j * g.ldb + l : l * g.ldb + j)];
              double& to = expected[static_cast<std::size_t>(i * g.ldc + j)];
              to = 1.5 * dot + beta * to;
            }
          CAPTURE(message(m, n, k, ta, tb, beta));
          detail::block_product(g, a.data(), b.data(), c.data());
          CHECK(worst_error(c, expected) <= (2 + static_cast<double>(k) / 8) * tight<T>);
        }
}

TEST_CASE_TEMPLATE("A part of a product by blocks has the bits that it has in the whole", T, float, double) {
  const Index m = 37, n = 100, k = 700;
  const auto a = noise<T>({m, k}, 1), b = noise<T>({k, n}, 2);
  const auto whole = Tensor<T>::empty({m, n}), parts = Tensor<T>::empty({m, n});
  const Gemm g{.m = m, .n = n, .k = k, .lda = k, .ldb = n, .ldc = n};
  detail::block_product(g, a.data(), b.data(), whole.data());
  for (Index row = 0; row < m; row += 11)
    for (Index column = 0; column < n; column += 23) {
      Gemm part = g;
      part.m = std::min<Index>(11, m - row), part.n = std::min<Index>(23, n - column);
      detail::block_product(part, a.data() + row * k, b.data() + column, parts.data() + row * n + column);
    }
  CHECK(parts.to_host() == whole.to_host());
}
