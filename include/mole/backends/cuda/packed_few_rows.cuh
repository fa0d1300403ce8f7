#pragma once
// y (+)= x W^T of a packed W and a few rows of x, as a decoder's steps are. W is read once, packed, and its numbers are
// formed in registers. Sums are in float (double for double), in an order that the extents alone fix. With two-byte x the
// numbers of W are rounded to x's type, as those of a dense W are.

#include <concepts>
#include <cstdint>

#include <mole/backends/cuda/context.cuh>
#include <mole/backends/cuda/launch.cuh>
#include <mole/backends/cuda/layer_blocks.cuh>
#include <mole/backends/cuda/mma.cuh>
#include <mole/backends/cuda/pack.cuh>
#include <mole/backends/cuda/packed_rows.cuh>
#include <mole/backends/cuda/warp.cuh>
#include <mole/core/kernels/packed_rows.hpp>
#include <mole/core/scalar.hpp>

namespace mole::detail {

/// Rows of x that W is read once for, and how many rows are not yet the BLAS's: it reads numbers of W that were written
/// before.
inline constexpr int packed_rows_at_once = 8, most_packed_rows = 16;

/// Blocks of a layer, of so many rows of W each.
template <int Rows>
struct BlocksOfPackedRows {
  template <class L>
  MOLE_HD Index operator()(const L& layer) const {
    return (layer.W.d_out + Rows - 1) / Rows;
  }
};

inline constexpr int packed_dot_threads = 128, packed_dot_rows = 4;

/// Of x in float or double. A block takes 4 rows of W, a thread every 128th eight of each.
template <PackedFormat f, class T>
__global__ void __launch_bounds__(packed_dot_threads)
    packed_dots(const __grid_constant__ PackedProduct<T> a) {
  constexpr int warps = packed_dot_threads / 32, R = packed_dot_rows, most = packed_rows_at_once;
  const auto block = layer_of_block(a, blockIdx.x, BlocksOfPackedRows<R>());
  const PackedMatrix& W = a.layers[block.layer].W;
  const auto map = shared_map<f>(W);
  const Index first = (blockIdx.x - block.first) * R, first_x = static_cast<Index>(blockIdx.y) * most;
  const int rows = static_cast<int>(min(a.rows - first_x, static_cast<Index>(most)));
  const T* const x = a.x + first_x * W.d_in;
  T sum[R][most] = {};
  follow_earlier();
  const auto eights = static_cast<std::uint32_t>(W.d_in / 8);
  Index row[R];
#pragma unroll
  for (int r = 0; r < R; ++r) row[r] = min(first + r, W.d_out - 1);
  for (std::uint32_t j = threadIdx.x; j < eights; j += packed_dot_threads) {
    PackedEight<f> codes[R];
    PackedScaleBits bits[R];
    float numbers[R][8];
    const auto at = [&](int r) { return static_cast<std::uint32_t>(row[r]) * eights + j; };
#pragma unroll
    for (int r = 0; r < R; ++r) {
      codes[r] = packed_eight<f>(W, at(r));
      bits[r] = packed_scale_bits<f>(W, row[r], at(r));
    }
#pragma unroll
    for (int r = 0; r < R; ++r) packed_numbers<f>(codes[r], packed_scale<f>(bits[r], at(r)), map, numbers[r]);
#pragma unroll
    for (int t = 0; t < most; ++t) {
      if (t >= rows) break;
      const T* const from = x + t * W.d_in + Index{8} * j;
#pragma unroll
      for (int p = 0; p < 8 / Pack<T>::size; ++p) {
        const auto pack = load_pack(from + p * Pack<T>::size);
#pragma unroll
        for (int e = 0; e < Pack<T>::size; ++e)
#pragma unroll
          for (int r = 0; r < R; ++r)
            sum[r][t] += static_cast<T>(numbers[r][p * Pack<T>::size + e]) * pack.values[e];
      }
    }
  }
  __shared__ T parts[warps][R][most];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int t = 0; t < most; ++t) {
    if (t >= rows) break;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const T part = sum_over_warp(sum[r][t]);
      if (lane == 0) parts[warp][r][t] = part;
    }
  }
  __syncthreads();
  const int r = static_cast<int>(threadIdx.x) % R, t = static_cast<int>(threadIdx.x) / R;
  if (t >= rows || first + r >= W.d_out) return;
  T d = 0;
  for (int w = 0; w < warps; ++w) d += parts[w][r][t];
  T* const to = a.layers[block.layer].y + (first_x + t) * W.d_out + first + r;
  *to = a.add ? *to + d : d;
}

inline constexpr int packed_mma_warps = 8, packed_mma_rows = 16, packed_group = 32;

/// The codes of a group, in as many reads of 16 bytes as it has.
template <PackedFormat f>
struct PackedGroup {
  static constexpr int reads = static_cast<int>(packed_code_bytes(f)) / 16;
  Words<4> codes[reads];
  std::uint32_t high[2];

  __device__ __forceinline__ void load(const PackedMatrix& W, std::uint32_t group) {
#pragma unroll
    for (int k = 0; k < reads; ++k)
      codes[k] = packed_at<Words<4>>(W.data + Index{16 * reads} * group + 16 * k);
    if constexpr (packed_bits(f) == 5) high[0] = packed_at<std::uint32_t>(W.data + W.high + Index{4} * group);
    if constexpr (packed_bits(f) == 6) {
      const auto both = packed_at<Words<2>>(W.data + W.high + Index{8} * group);
      high[0] = both.of[0], high[1] = both.of[1];
    }
  }
  /// Of its four eights the one of number `k`, which the compiler knows.
  __device__ __forceinline__ PackedEight<f> eight(int k) const {
    constexpr int words = PackedEight<f>::words;
    PackedEight<f> e;
    e.high = 0;
#pragma unroll
    for (int w = 0; w < words; ++w) e.codes.of[w] = codes[(k * words + w) / 4].of[(k * words + w) % 4];
    if constexpr (packed_bits(f) == 5) e.high = high[0] >> 8 * k & 0xffU;
    if constexpr (packed_bits(f) == 6) e.high = high[k / 2] >> 16 * (k % 2) & 0xffffU;
    return e;
  }
};

/// A lane's groups of the two rows of W that it has part in, and their scales.
template <PackedFormat f>
struct PackedPair {
  PackedGroup<f> group[2];
  PackedScaleBits bits[2];

  /// Group j of these rows, which have `groups` each.
  __device__ __forceinline__ void load(const PackedMatrix& W, const std::uint32_t (&row)[2],
                                       std::uint32_t groups, std::uint32_t j) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const std::uint32_t at = row[r] * groups + j;
      group[r].load(W, at);
      bits[r] = packed_scale_bits<f>(W, row[r], 4 * at);
    }
  }
};

/// Of x in two bytes, by the matrix units. A block takes 16 rows of W, a warp every 8th chunk of 128 columns: 8 products of
/// 16 x 16 by 16 x 8. Of two rows of W and one of x a lane has a group of 32 columns, and puts four of them into each
/// product. So a product's columns are no neighbours, but W's are those of x.
template <PackedFormat f, Narrow T>
__global__ void __launch_bounds__(packed_mma_warps * 32)
    packed_tiles(const __grid_constant__ PackedProduct<T> a) {
  constexpr int warps = packed_mma_warps, most = packed_rows_at_once;
  const auto block = layer_of_block(a, blockIdx.x, BlocksOfPackedRows<packed_mma_rows>());
  const PackedMatrix& W = a.layers[block.layer].W;
  const auto map = shared_map<f>(W);
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const Index first = (blockIdx.x - block.first) * packed_mma_rows,
              first_x = static_cast<Index>(blockIdx.y) * most;
  // Rows that are not there are those of the last one: their sums are thrown away.
  const std::uint32_t row[2] = {static_cast<std::uint32_t>(min(first + g, W.d_out - 1)),
                                static_cast<std::uint32_t>(min(first + g + 8, W.d_out - 1))};
  const T* const x = a.x + min(first_x + g, a.rows - 1) * W.d_in;
  const auto groups = static_cast<std::uint32_t>(W.d_in / packed_group), chunks = (groups + 3) / 4;
  const auto group_of = [&](std::uint32_t chunk) { return min(chunk * 4 + t, groups - 1); };

  float c[4] = {};
  const auto multiply_chunk = [&](const PackedPair<f>& pair, const Words<4>(&of_x)[4]) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      float numbers[2][8];
#pragma unroll
      for (int r = 0; r < 2; ++r)
        packed_numbers<f>(pair.group[r].eight(k), packed_scale<f>(pair.bits[r], k), map, numbers[r]);
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const int j = 4 * part;
        const std::uint32_t w[4] = {rounded_pair<T>(numbers[0][j], numbers[0][j + 1]),
                                    rounded_pair<T>(numbers[1][j], numbers[1][j + 1]),
                                    rounded_pair<T>(numbers[0][j + 2], numbers[0][j + 3]),
                                    rounded_pair<T>(numbers[1][j + 2], numbers[1][j + 3])};
        multiply_add<T>(c, w, of_x[k].of[2 * part], of_x[k].of[2 * part + 1]);
      }
    }
  };
  // Chunks that are on their way while one is multiplied.
  constexpr int ahead = PackedGroup<f>::reads == 1 ? 2 : 1;
  PackedPair<f> coming[ahead];
#pragma unroll
  for (int i = 0; i < ahead; ++i)
    if (warp + i * warps < chunks) coming[i].load(W, row, groups, group_of(warp + i * warps));
  // W is frozen: it is on its way while the kernel that makes x still runs.
  follow_earlier();
  for (std::uint32_t chunk = warp; chunk < chunks; chunk += warps) {
    const PackedPair<f> now = coming[0];
#pragma unroll
    for (int i = 1; i < ahead; ++i) coming[i - 1] = coming[i];
    Words<4> of_x[4];
#pragma unroll
    for (int k = 0; k < 4; ++k)
      of_x[k] = packed_at<Words<4>>(
          reinterpret_cast<const std::uint8_t*>(x + Index{packed_group} * group_of(chunk)) + 16 * k);
    if (chunk + ahead * warps < chunks)
      coming[ahead - 1].load(W, row, groups, group_of(chunk + ahead * warps));
    // In the last chunk some lanes have the last group once more.
    if (chunk * 4 + t >= groups) {
#pragma unroll
      for (int k = 0; k < 4; ++k) of_x[k] = {};
    }
    multiply_chunk(now, of_x);
  }

  // The warps' sums, by row of x and of W; so far apart that lanes write to banks of their own.
  __shared__ float parts[warps][most][20];
  parts[warp][2 * t][g] = c[0];
  parts[warp][2 * t + 1][g] = c[1];
  parts[warp][2 * t][g + 8] = c[2];
  parts[warp][2 * t + 1][g + 8] = c[3];
  __syncthreads();
  const int r = static_cast<int>(threadIdx.x) % packed_mma_rows,
            j = static_cast<int>(threadIdx.x) / packed_mma_rows;
  if (j >= most || first_x + j >= a.rows || first + r >= W.d_out) return;
  float d = 0;
#pragma unroll
  for (int w = 0; w < warps; ++w) d += parts[w][j][r];
  T* const to = a.layers[block.layer].y + (first_x + j) * W.d_out + first + r;
  *to = static_cast<T>(a.add ? static_cast<float>(*to) + d : d);
}

/// Whether a kernel takes these: rows of whole eights, or of whole groups that share a scale for the matrix units.
template <class T>
bool packed_product_fits(const PackedProduct<T>& a) {
  if (a.count < 1 || a.count > most_row_layers || a.rows < 1 || a.rows > most_packed_rows ||
      reinterpret_cast<std::uintptr_t>(a.x) % 16 != 0)
    return false;
  const auto& first = a.layers[0].W;
  for (int i = 0; i < a.count; ++i) {
    const auto& W = a.layers[i].W;
    const bool whole =
        std::same_as<Compute<T>, T>
            ? W.d_in % 8 == 0
            : W.d_in % packed_group == 0 && (W.format != PackedFormat::map4 || W.block_bits >= 5);
    if (!whole || W.format != first.format || W.block_bits != first.block_bits || W.d_in != first.d_in ||
        W.d_in == 0 || W.d_out == 0 || W.d_out >= Index{1} << 28)
      return false;
  }
  return true;
}

template <class T>
bool launch_packed_product(const PackedProduct<T>& a) {
  if (!packed_product_fits(a)) return false;
  const auto parts_of_x = static_cast<unsigned>((a.rows + packed_rows_at_once - 1) / packed_rows_at_once);
  with_packed_format(a.layers[0].W.format, [&](auto f) {
    if constexpr (Narrow<T>)
      launch_early(packed_tiles<f(), T>,
                   dim3(blocks_of_layers(a, BlocksOfPackedRows<packed_mma_rows>()), parts_of_x),
                   packed_mma_warps * 32, 0, a);
    else
      launch_early(packed_dots<f(), T>,
                   dim3(blocks_of_layers(a, BlocksOfPackedRows<packed_dot_rows>()), parts_of_x),
                   packed_dot_threads, 0, a);
  });
  return true;
}

}  // namespace mole::detail
