#pragma once
// What the attention kernels of bf16 and half share: tiles of a head in shared memory, and a warp's products with them on
// the matrix units. A warp has 16 rows of a block's 64.

#include <cstdint>

#include <mole/backends/cuda/mma.cuh>
#include <mole/backends/cuda/pack.cuh>
#include <mole/core/shape.hpp>

namespace mole::detail {

inline constexpr int mma_rows = 64, mma_threads = 128;

/// Columns of a head of up to 16 KD numbers in shared memory, and between its rows.
template <int KD>
inline constexpr int mma_width = 16 * KD;
template <int KD>
inline constexpr int mma_pitch = mma_width<KD> + 8;

/// One side of one head, copied to shared memory by whole tiles; zero beyond `count` and `width`.
template <int KD, Narrow T>
struct MmaSide {
  const T* x;
  Index stride, count;
  int width;
  bool whole;  ///< rows are packs, and aligned

  __device__ MmaSide(const T* x, Index stride, Index count, Index width)
      : x(x),
        stride(stride),
        count(count),
        width(static_cast<int>(width)),
        whole(stride % Pack<T>::size == 0 && width % Pack<T>::size == 0 &&
              reinterpret_cast<std::uintptr_t>(x) % sizeof(Pack<T>) == 0) {}

  template <int Rows>
  __device__ void load(Index first, T* to) const {
    constexpr int n = Pack<T>::size, packs = mma_width<KD> / n;
#pragma unroll
    for (int turn = 0; turn < (Rows * packs + mma_threads - 1) / mma_threads; ++turn) {
      const int at = turn * mma_threads + static_cast<int>(threadIdx.x);
      const int r = at / packs, c = at % packs * n;
      if (Rows * packs % mma_threads != 0 && r >= Rows) break;
      Pack<T> found{};
      if (first + r < count && c < width) {
        const T* const from = x + (first + r) * stride + c;
        if (whole) {
          found = load_pack(from);
        } else {
          for (int i = 0; i < n; ++i)
            if (c + i < width) found.values[i] = from[i];
        }
      }
      *reinterpret_cast<Pack<T>*>(to + r * mma_pitch<KD> + c) = found;
    }
  }
};

/// Where a thread's numbers of a C are: rows g and g + 8 of its warp's 16, columns 2 t and 2 t + 1.
struct MmaLane {
  int row, column;

  __device__ MmaLane()
      : row(static_cast<int>(threadIdx.x) / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4),
        column(static_cast<int>(threadIdx.x) % 4 * 2) {}
};

/// scores (16 rows a warp, 8 Tiles columns) = A B^T: A's rows in shared memory or in registers by load_a(kd, a), B's rows in
/// shared memory.
template <int KD, int Tiles, Narrow T, class LoadA>
__device__ void mma_scores(float (&scores)[Tiles][4], const T* b, LoadA load_a) {
  const SharedMatrix<mma_pitch<KD>, T> B{b};
#pragma unroll
  for (int n = 0; n < Tiles; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[n][i] = 0;
#pragma unroll
  for (int kd = 0; kd < KD; ++kd) {
    std::uint32_t a[4], of_b[4];
    load_a(kd, a);
#pragma unroll
    for (int n = 0; n < Tiles; n += 2) {
      B.load_b_transposed(8 * n, 16 * kd, of_b);
      multiply_add<T>(scores[n], a, of_b[0], of_b[1]);
      multiply_add<T>(scores[n + 1], a, of_b[2], of_b[3]);
    }
  }
}

/// out += W B: the weights W (16 rows a warp, 8 Tiles columns) are rounded, B's rows are in shared memory.
template <int KD, int Tiles, Narrow T>
__device__ void mma_mix(float (&out)[2 * KD][4], const float (&weights)[Tiles][4], const T* b) {
  const SharedMatrix<mma_pitch<KD>, T> B{b};
#pragma unroll
  for (int k = 0; k < Tiles / 2; ++k) {
    std::uint32_t a[4], of_b[4];
    to_operand<T>(weights[2 * k], weights[2 * k + 1], a);
#pragma unroll
    for (int n = 0; n < KD; ++n) {
      B.load_b(16 * k, 16 * n, of_b);
      multiply_add<T>(out[2 * n], a, of_b[0], of_b[1]);
      multiply_add<T>(out[2 * n + 1], a, of_b[2], of_b[3]);
    }
  }
}

/// Writes a thread's part of 64 rows, from row `first` of `count` on, rows g times by[0] and rows g + 8 times by[1].
template <int KD, Narrow T>
__device__ void mma_store(const float (&out)[2 * KD][4], const float (&by)[2], T* to, Index stride,
                          Index first, Index count, int width) {
  const MmaLane lane;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const Index row = first + lane.row + 8 * half;
    if (row >= count) continue;
#pragma unroll
    for (int n = 0; n < 2 * KD; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int column = 8 * n + lane.column + i;
        if (column < width) to[row * stride + column] = static_cast<T>(out[n][2 * half + i] * by[half]);
      }
  }
}

}  // namespace mole::detail
