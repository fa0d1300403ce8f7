#pragma once
// y (+)= x W^T for a packed W and a few rows of x, as a decoder's steps are. A BLAS would read W three times: packed,
// as numbers on their way to memory, and again. Here the format multiplies by itself (PackedRows::dots()), or stretches of
// four rows become numbers in the first cache.

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <type_traits>
#include <vector>

#include <mole/core/instruction_set.hpp>
#include <mole/core/omp.hpp>
#include <mole/core/vectors.hpp>
#include <mole/nn/packed_rows.hpp>

namespace mole::detail {

/// Up to how many rows of x.
inline constexpr Index few_rows = 16;

/// n sums of products at once: of `rows` (at most 4) stretches of W with `tokens` (at most 4) of x. Partial sums are kept
/// in `lanes` places each until all of a row is seen.
struct DotTile {
  static constexpr Index lanes = 16, most = 4;

  /// Lanes of one vector: sums of wider ones would go through memory.
  template <InstructionSet set, class T>
  static constexpr int width = (set == InstructionSet::avx512 ? 64
                                : set == InstructionSet::avx2 ? 32
                                                              : 16) /
                               static_cast<int>(sizeof(T));
  /// Tokens whose sums the registers hold beside those of four rows.
  template <InstructionSet set>
  static constexpr Index at_once = set == InstructionSet::avx512 ? 4 : 2;

  /// The sums of a row of W lie `row_step` behind those of the one before.
  template <InstructionSet set, int rows, int tokens, class T>
  [[gnu::always_inline]] static inline void tile(Index n, const T* w, Index w_step, const T* x, Index x_step,
                                                 T* sums, Index row_step) {
    using V = typename VectorOf<T, width<set, T>>::type;
    for (Index first = 0; first < lanes; first += width<set, T>) {
      V sum[rows][tokens];
      for (int r = 0; r < rows; ++r)
        for (int t = 0; t < tokens; ++t)
          std::memcpy(&sum[r][t], sums + r * row_step + t * lanes + first, sizeof(V));
      for (Index j = first; j < n; j += lanes) {
        V in[tokens];
        for (int t = 0; t < tokens; ++t) std::memcpy(&in[t], x + t * x_step + j, sizeof(V));
        for (int r = 0; r < rows; ++r) {
          V of;
          std::memcpy(&of, w + r * w_step + j, sizeof(V));
          for (int t = 0; t < tokens; ++t) sum[r][t] += of * in[t];
        }
      }
      for (int r = 0; r < rows; ++r)
        for (int t = 0; t < tokens; ++t)
          std::memcpy(sums + r * row_step + t * lanes + first, &sum[r][t], sizeof(V));
    }
  }

  template <InstructionSet set, class T>
  [[gnu::always_inline]] static inline void run(Index rows, Index tokens, Index n, const T* w, Index w_step,
                                                const T* x, Index x_step, T* sums) {
    const Index row_step = tokens * lanes;
    if (rows < most) {
      for (Index r = 0; r < rows; ++r)
        for (Index t = 0; t < tokens; ++t)
          tile<set, 1, 1>(n, w + r * w_step, w_step, x + t * x_step, x_step, sums + r * row_step + t * lanes,
                          row_step);
      return;
    }
    constexpr Index together = at_once<set>;
    Index t = 0;
    for (; t + together <= tokens; t += together)
      tile<set, most, together>(n, w, w_step, x + t * x_step, x_step, sums + t * lanes, row_step);
    for (; t < tokens; ++t)
      tile<set, most, 1>(n, w, w_step, x + t * x_step, x_step, sums + t * lanes, row_step);
  }
};

/// y[t][r] = sum_j W[row + r][j] x[t][j] for up to four rows of W, by numbers of W in the first cache.
/// x [tokens, x_step], of which a row's last numbers, from d_in on, are 0.
template <class T>
void dots_of_numbers(const PackedRows& W, Index row, Index rows, Index tokens, const T* x, Index x_step,
                     T (*y)[DotTile::most]) {
  constexpr Index lanes = DotTile::lanes, most = DotTile::most, stretch = 2 * PackedRows::step;
  const Index d_in = W.shape()[1];
  T sums[few_rows / most][most * most * lanes] = {};
  for (Index first = 0; first < d_in; first += stretch) {
    const Index n = std::min(stretch, d_in - first), n_padded = std::min(stretch, x_step - first);
    T numbers[most * stretch];
    for (Index r = 0; r < rows; ++r) {
      T* const to = numbers + r * stretch;
      if constexpr (std::is_same_v<T, float>) {
        W.unpack(row + r, first, n, to);
      } else {
        float values[stretch];
        W.unpack(row + r, first, n, values);
        std::copy(values, values + n, to);
      }
      std::fill(to + n, to + n_padded, T(0));
    }
    for (Index t = 0; t < tokens; t += most)
      run_widest<DotTile>(rows, std::min(most, tokens - t), n_padded, static_cast<const T*>(numbers), stretch,
                          x + t * x_step + first, x_step, static_cast<T*>(sums[t / most]));
  }
  for (Index t = 0; t < tokens; ++t)
    for (Index r = 0; r < rows; ++r) {
      const Index own = std::min(most, tokens - t / most * most);
      y[t][r] = sum_of_lanes(sums[t / most] + (r * own + t % most) * lanes);
    }
}

/// y = x W^T, added to y where `add` is set.  x [tokens, d_in], y [tokens, d_out], tokens at most few_rows
/// T is float or double. Every sum is made by one thread, in an order that d_in alone decides. Floats take the format's
/// own products where it has them, and no more rows of x than these take at a time.
template <class T>
void few_rows_forward(const PackedRows& W, Index tokens, const T* x, bool add, T* y) {
  constexpr Index lanes = DotTile::lanes, most = DotTile::most, rows_a_part = 16;
  const Index d_out = W.shape()[0], d_in = W.shape()[1], padded = (d_in + lanes - 1) / lanes * lanes;
  std::vector<T> longer(static_cast<std::size_t>(padded > d_in ? tokens * padded : 0));
  if (padded > d_in) {
    for (Index t = 0; t < tokens; ++t)
      std::copy(x + t * d_in, x + (t + 1) * d_in, longer.data() + t * padded);
    x = longer.data();
  }
  const Index parts = (d_out + rows_a_part - 1) / rows_a_part;
  MOLE_OMP("omp parallel for schedule(static) if (d_out * d_in > 100000)")
  for (Index part = 0; part < parts; ++part) {
    const Index end = std::min(d_out, (part + 1) * rows_a_part);
    for (Index row = part * rows_a_part; row < end; row += most) {
      const Index rows = std::min(most, end - row);
      T found[few_rows][most];
      bool made = false;
      if constexpr (std::is_same_v<T, float>)
        made = tokens <= most && W.dots({row, rows, tokens, x, padded}, found);
      if (!made) dots_of_numbers(W, row, rows, tokens, x, padded, found);
      for (Index t = 0; t < tokens; ++t)
        for (Index r = 0; r < rows; ++r) {
          T& to = y[t * d_out + row + r];
          to = add ? to + found[t][r] : found[t][r];
        }
    }
  }
}

}  // namespace mole::detail
