#pragma once
// A matrix product by the blocks of cpu_block.hpp. A is read where it lies; of B some rows and columns at a time are
// laid out in the order in which they are read, unless so few rows of A read them that this would take longer.

#include <algorithm>
#include <cstddef>
#include <vector>

#include <mole/backends/cpu_block.hpp>
#include <mole/core/gemm.hpp>

namespace mole::detail {

/// Rows [0, k) of B, columns of panel p, from the column `first` on, as [k, size * lanes] with zeros beyond the last.
template <class T>
void pack_panel(const Gemm& g, const T* b, Index k, Index first, const Panels<T>& panels, Index p, T* to) {
  constexpr Index lanes = Panels<T>::lanes;
  const Index begin = first + panels.first(p) * lanes, size = panels.size(p), there = panels.width(p),
              row = size * lanes;
  if (there < row) std::fill(to, to + k * row, T(0));
  if (!g.transpose_b) {
    for (Index r = 0; r < k; ++r) std::copy_n(b + r * g.ldb + begin, there, to + r * row);
    return;
  }
  for (Index v = 0; v < size; ++v) {
    const T* const from = b + (begin + v * lanes) * g.ldb;
    const Index count = std::min(lanes, there - v * lanes);
    Index r = 0;
    if (count == lanes)
      for (; r + lanes <= k; r += lanes) transpose_square(from + r, g.ldb, to + r * row + v * lanes, row);
    for (; r < k; ++r)
      for (Index o = 0; o < count; ++o) to[r * row + v * lanes + o] = from[o * g.ldb + r];
  }
}

/// Rows of A for which B is not laid out.
inline constexpr Index few_product_rows = 16;

/// C = alpha op(A) op(B) + beta C of one product. Every element is a sum in a fixed order, whichever rows and columns
/// are computed with it.
template <class T>
void block_product(const Gemm& g, const T* a, const T* b, T* c) {
  // B's part stays in a processor's second cache, and so do `high` rows of A's while all panels are read. A sum over
  // more rows of B at once would be no faster, and in float its error would be twice as large at 512.
  constexpr Index depth = 128, wide = 30 * Lanes<T>::lanes, high = 256;
  // Where B is as it lies in memory, rows of whole registers are read there.
  const bool in_place = !g.transpose_b && g.m <= few_product_rows;
  const T alpha = static_cast<T>(g.alpha), beta = static_cast<T>(g.beta);
  if (beta != T(0) && beta != T(1))
    for (Index i = 0; i < g.m; ++i)
      for (Index j = 0; j < g.n; ++j) c[i * g.ldc + j] *= beta;
  if (g.k == 0 && beta == T(0))
    for (Index i = 0; i < g.m; ++i) std::fill_n(c + i * g.ldc, g.n, T(0));
  std::vector<T> packed;
  for (Index first = 0; first < g.n; first += wide) {
    const Panels<T> panels(std::min(wide, g.n - first));
    for (Index from = 0; from < g.k; from += depth) {
      const Index k = std::min(depth, g.k - from);
      packed.resize(static_cast<std::size_t>(std::min(depth, g.k) * Panels<T>(std::min(wide, g.n)).registers *
                                             Panels<T>::lanes));
      const T* const rows = b + from * (g.transpose_b ? 1 : g.ldb);
      for (Index p = 0; p < panels.count; ++p)
        if (!in_place || panels.width(p) < panels.size(p) * Panels<T>::lanes)
          pack_panel(g, rows, k, first, panels, p, packed.data() + panels.first(p) * Panels<T>::lanes * k);
      for (Index top = 0; top < g.m; top += high)
        for (Index p = 0; p < panels.count; ++p) {
          const Index column = panels.first(p) * Panels<T>::lanes;
          const bool there = in_place && panels.width(p) == panels.size(p) * Panels<T>::lanes;
          block_rows(Block<T>{a + from * (g.transpose_a ? g.lda : 1) + top * (g.transpose_a ? 1 : g.lda),
                              g.transpose_a ? 1 : g.lda, 0, g.transpose_a ? g.lda : 1,
                              there ? rows + first + column : packed.data() + column * k, 1, k, nullptr,
                              c + top * g.ldc + first + column, g.ldc, panels.width(p), alpha,
                              from > 0 || beta != T(0), there ? g.ldb : 0},
                     std::min(high, g.m - top), panels.size(p));
        }
    }
  }
}

}  // namespace mole::detail
