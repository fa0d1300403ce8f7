#pragma once
// Numbers of a packed matrix: see core/kernels/packed_rows.hpp.

#include <algorithm>
#include <cstdint>

#include <mole/backends/cuda/context.cuh>
#include <mole/backends/cuda/launch.cuh>
#include <mole/backends/cuda/pack.cuh>
#include <mole/core/kernels/packed_rows.hpp>
#include <mole/core/scalar.hpp>

namespace mole::detail {

inline constexpr int unpack_threads = 256;

/// The map of a matrix in shared memory, at a multiple of 256 bytes.
struct SharedMap {
  std::uint32_t at;

  /// As PackedMap's. The byte joins the address in one instruction.
  __device__ __forceinline__ float operator()(std::uint32_t fours, int byte) const {
    float value;
    asm("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(__byte_perm(fours, at, 0x7650 + byte)));
    return value;
  }
};

/// Puts it there. All threads of a block call this.
template <PackedFormat f>
__device__ __forceinline__ SharedMap shared_map(const PackedMatrix& W) {
  SharedMap map{0};
  if constexpr (f == PackedFormat::map4) {
    __shared__ alignas(256) float values[16];
    if (threadIdx.x < 16) values[threadIdx.x] = W.map[threadIdx.x];
    __syncthreads();
    map.at = static_cast<std::uint32_t>(__cvta_generic_to_shared(values));
    // What reads by this address comes after the barrier.
    asm volatile("" : "+r"(map.at) : : "memory");
  }
  return map;
}

/// Whether eights begin and end with the rows and columns that are asked for, and 16 bytes with what is written.
template <class T>
bool unpacks_eights(const UnpackNumbers<T>& a) {
  return a.W.d_in % 8 == 0 && a.first_column % 8 == 0 && a.columns % 8 == 0 &&
         reinterpret_cast<std::uintptr_t>(a.out) % 16 == 0;
}

/// Rows of which a thread reads the codes before it writes any number: so many reads are on their way at once.
inline constexpr int unpack_at_once = 4;

/// A thread an eight of some rows, or a number: blockIdx.x goes along a row, blockIdx.y through the rows.
template <PackedFormat f, bool eights, class T>
__global__ void __launch_bounds__(unpack_threads) unpack(const __grid_constant__ UnpackNumbers<T> a) {
  const auto map = shared_map<f>(a.W);
  follow_earlier();
  constexpr int n = eights ? 8 : 1, R = unpack_at_once;
  const Index j = (static_cast<Index>(blockIdx.x) * unpack_threads + threadIdx.x) * n;
  if (j >= a.columns) return;
  const Index column = a.first_column + j;
  for (Index first = static_cast<Index>(blockIdx.y) * R; first < a.rows;
       first += static_cast<Index>(gridDim.y) * R) {
    Index row[R];
#pragma unroll
    for (int i = 0; i < R; ++i) {
      const Index r = min(first + i, a.rows - 1);
      row[i] = a.ids ? a.ids[r] : a.first_row + r;
    }
    T* const to = a.out + first * a.columns + j;
    if constexpr (eights) {
      const auto eight_of = [&](int i) {
        return static_cast<std::uint32_t>((row[i] * a.W.d_in + column) / 8);
      };
      PackedEight<f> codes[R];
      PackedScaleBits bits[R];
#pragma unroll
      for (int i = 0; i < R; ++i) {
        codes[i] = packed_eight<f>(a.W, eight_of(i));
        bits[i] = packed_scale_bits<f>(a.W, row[i], eight_of(i));
      }
#pragma unroll
      for (int i = 0; i < R; ++i) {
        if (first + i >= a.rows) break;
        float y[8];
        packed_numbers<f>(codes[i], packed_scale<f>(bits[i], eight_of(i)), map, y);
        constexpr int size = Pack<T>::size;
        Compute<T> out[8];
#pragma unroll
        for (int e = 0; e < 8; ++e) out[e] = static_cast<Compute<T>>(y[e]);
#pragma unroll
        for (int p = 0; p < 8 / size; ++p) store_pack(to + i * a.columns + p * size, out + p * size);
      }
    } else {
#pragma unroll
      for (int i = 0; i < R; ++i) {
        if (first + i >= a.rows) break;
        to[i * a.columns] = static_cast<T>(packed_number<f>(a.W, row[i], column, map));
      }
    }
  }
}

template <class T>
void launch_unpack(const UnpackNumbers<T>& a) {
  if (a.rows == 0 || a.columns == 0) return;
  const bool eights = unpacks_eights(a);
  const Index along = a.columns / (eights ? 8 : 1);
  const dim3 blocks(
      static_cast<unsigned>((along + unpack_threads - 1) / unpack_threads),
      static_cast<unsigned>(std::min<Index>((a.rows + unpack_at_once - 1) / unpack_at_once, 65535)));
  with_packed_format(a.W.format, [&](auto f) {
    launch_early(eights ? unpack<f(), true, T> : unpack<f(), false, T>, blocks, unpack_threads, 0, a);
  });
}

}  // namespace mole::detail
