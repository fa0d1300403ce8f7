#pragma once
// What the attention kernels share: one side of a head in shared memory, products with it, what is visible.

#include <cstdint>

#include <mole/backends/cuda/quad.cuh>
#include <mole/core/kernels/attention.hpp>

namespace mole::detail {

inline constexpr int attention_tile = 32, attention_warps = 4, attention_rows_a_warp = 4;
inline constexpr int attention_rows = attention_warps * attention_rows_a_warp;
inline constexpr int attention_threads = attention_warps * 32;
static_assert(attention_rows_a_warp == quad, "a warp's rows at one key lie in a quad");

/// One side of one head: rows x + row * stride of `width` columns, `count` of them.
template <class T>
struct HeadRows {
  const T* x;
  Index stride, count, width;
  bool whole;  ///< rows are quads, and aligned

  __device__ HeadRows(const T* x, Index stride, Index count, Index width)
      : x(x),
        stride(stride),
        count(count),
        width(width),
        whole(stride % quad == 0 && width % quad == 0 &&
              reinterpret_cast<std::uintptr_t>(x) % sizeof(Quad<T>) == 0) {}

  /// Rows [first, first + Rows) to shared memory; zero beyond `count` and `width`.
  template <int Rows, int Columns, class V>
  __device__ void load(Index first, V* to, int pitch) const {
    constexpr int quads = Columns / quad;
#pragma unroll
    for (int turn = 0; turn < Rows * quads / attention_threads; ++turn) {
      const int at = turn * attention_threads + static_cast<int>(threadIdx.x);
      const int r = at / quads, c = at % quads * quad;
      Quad<T> found{};
      if (first + r < count && c < width) {
        const T* const from = x + (first + r) * stride + c;
        if (whole) {
          found = *reinterpret_cast<const Quad<T>*>(from);
        } else {
#pragma unroll
          for (int i = 0; i < quad; ++i)
            if (c + i < width) found.values[i] = from[i];
        }
      }
#pragma unroll
      for (int i = 0; i < quad; ++i) to[r * pitch + c + i] = static_cast<V>(found.values[i]);
    }
  }
};

/// dots[r] += <rows[r], of>, with four rows `columns` apart in shared memory and `width` up to a quad.
template <class V>
__device__ void add_dots(const V* rows, int columns, const V* of, Index width, V (&dots)[quad]) {
#pragma unroll 4
  for (int c = 0; c < width; c += quad) {
    V value[quad];
#pragma unroll
    for (int i = 0; i < quad; ++i) value[i] = of[c + i];
#pragma unroll
    for (int r = 0; r < quad; ++r) {
      const auto row = *reinterpret_cast<const Quad<V>*>(rows + r * columns + c);
#pragma unroll
      for (int i = 0; i < quad; ++i) dots[r] += row.values[i] * value[i];
    }
  }
}

/// Which block of rows of which head a block works on.
struct AttentionPlace {
  Index sequence, head, first;

  __device__ AttentionPlace(Index block, Index rows, Index heads, Index rows_a_block = attention_rows) {
    const Index blocks = (rows + rows_a_block - 1) / rows_a_block;
    first = block % blocks * rows_a_block;
    head = block / blocks % heads;
    sequence = block / blocks / heads;
  }
};

/// Whether query i of a sequence sees key j.
template <class T>
__device__ bool attention_visible(const AttentionForward<T>& a, Index sequence, Index i, Index j) {
  return i < a.queries && j < a.keys && (!a.causal || j < i + a.keys - a.queries + 1) &&
         (!a.key_mask || static_cast<Compute<T>>(a.key_mask[sequence * a.keys + j]) != Compute<T>(0));
}

/// What is added to the score of query i and key j.
template <class T>
__device__ Compute<T> attention_bias(const AttentionForward<T>& a, Index head, Index i, Index j) {
  return a.bias ? static_cast<Compute<T>>(a.bias[(head * a.queries + i) * a.keys + j]) : Compute<T>(0);
}

}  // namespace mole::detail
