#pragma once
// y (+)= x W^T for a packed W and a few rows of x, as a decoder's steps are. A BLAS would read W three times: packed,
// as numbers on their way to memory, and again. Here stretches of four rows become numbers in the first cache.

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <type_traits>
#include <vector>

#include <mole/core/instruction_set.hpp>
#include <mole/core/omp.hpp>
#include <mole/nn/packed_rows.hpp>

namespace mole::detail {

/// Up to how many rows of x.
inline constexpr Index few_rows = 16;

/// n sums of products at once: of `rows` (at most 4) stretches of W with `tokens` (at most 4) of x. Partial sums are kept
/// in `lanes` places each until all of a row is seen.
struct DotTile {
  static constexpr Index lanes = 16, most = 4;

  // GCC and clang make of a vector type what the instruction set has.
  template <class T>
  struct Lanes {
    typedef T type __attribute__((vector_size(lanes * sizeof(T))));
  };

  template <int rows, int tokens, class T>
  [[gnu::always_inline]] static inline void tile(Index n, const T* w, Index w_step, const T* x, Index x_step,
                                                 T* sums) {
    using V = typename Lanes<T>::type;
    V sum[rows][tokens];
    std::memcpy(&sum, sums, sizeof sum);
    for (Index j = 0; j < n; j += lanes) {
      V in[tokens];
      for (int t = 0; t < tokens; ++t) std::memcpy(&in[t], x + t * x_step + j, sizeof(V));
      for (int r = 0; r < rows; ++r) {
        V of;
        std::memcpy(&of, w + r * w_step + j, sizeof(V));
        for (int t = 0; t < tokens; ++t) sum[r][t] += of * in[t];
      }
    }
    std::memcpy(sums, &sum, sizeof sum);
  }

  template <InstructionSet, class T>
  [[gnu::always_inline]] static inline void run(Index rows, Index tokens, Index n, const T* w, Index w_step,
                                                const T* x, Index x_step, T* sums) {
    if (rows == 4) {
      if (tokens == 4) return tile<4, 4>(n, w, w_step, x, x_step, sums);
      if (tokens == 3) return tile<4, 3>(n, w, w_step, x, x_step, sums);
      if (tokens == 2) return tile<4, 2>(n, w, w_step, x, x_step, sums);
      return tile<4, 1>(n, w, w_step, x, x_step, sums);
    }
    for (Index r = 0; r < rows; ++r)
      for (Index t = 0; t < tokens; ++t)
        tile<1, 1>(n, w + r * w_step, w_step, x + t * x_step, x_step, sums + (r * tokens + t) * lanes);
  }
};

/// y = x W^T, added to y where `add` is set.  x [tokens, d_in], y [tokens, d_out], tokens at most few_rows
/// T is float or double. Every sum is made by one thread, in an order that d_in alone decides.
template <class T>
void few_rows_forward(const PackedRows& W, Index tokens, const T* x, bool add, T* y) {
  constexpr Index lanes = DotTile::lanes, most = DotTile::most, stretch = 2 * PackedRows::step;
  constexpr Index rows_a_part = 16, groups_of_tokens = few_rows / most;
  const Index d_out = W.shape()[0], d_in = W.shape()[1], padded = (d_in + lanes - 1) / lanes * lanes;
  std::vector<T> inputs(static_cast<std::size_t>(tokens * padded));
  for (Index t = 0; t < tokens; ++t)
    std::copy(x + t * d_in, x + (t + 1) * d_in, inputs.data() + static_cast<std::size_t>(t * padded));
  const Index parts = (d_out + rows_a_part - 1) / rows_a_part;
  MOLE_OMP("omp parallel for schedule(static) if (d_out * d_in > 100000)")
  for (Index part = 0; part < parts; ++part) {
    const Index end = std::min(d_out, (part + 1) * rows_a_part);
    for (Index row = part * rows_a_part; row < end; row += most) {
      const Index rows = std::min(most, end - row);
      T sums[groups_of_tokens][most * most * lanes] = {};
      for (Index first = 0; first < d_in; first += stretch) {
        const Index n = std::min(stretch, d_in - first), n_padded = std::min(stretch, padded - first);
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
          run_widest<DotTile>(rows, std::min(most, tokens - t), n_padded, static_cast<const T*>(numbers),
                              stretch, inputs.data() + t * padded + first, padded,
                              static_cast<T*>(sums[t / most]));
      }
      for (Index t = 0; t < tokens; ++t)
        for (Index r = 0; r < rows; ++r) {
          const Index own = std::min(most, tokens - t / most * most);
          T* const sum = sums[t / most] + (r * own + t % most) * lanes;
          for (Index half = lanes / 2; half > 0; half /= 2)
            for (Index k = 0; k < half; ++k) sum[k] += sum[k + half];
          T& to = y[t * d_out + row + r];
          to = add ? to + sum[0] : sum[0];
        }
    }
  }
}

}  // namespace mole::detail
