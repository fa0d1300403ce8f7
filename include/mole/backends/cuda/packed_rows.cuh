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

/// A thread an eight, or a number: blockIdx.x goes along a row, blockIdx.y through the rows.
template <PackedFormat f, bool eights, class T>
__global__ void __launch_bounds__(unpack_threads) unpack(const __grid_constant__ UnpackNumbers<T> a) {
  const auto map = shared_map<f>(a.W);
  follow_earlier();
  constexpr int n = eights ? 8 : 1;
  const Index j = (static_cast<Index>(blockIdx.x) * unpack_threads + threadIdx.x) * n;
  if (j >= a.columns) return;
  for (Index r = blockIdx.y; r < a.rows; r += gridDim.y) {
    const Index row = a.ids ? a.ids[r] : a.first_row + r, column = a.first_column + j;
    T* const to = a.out + r * a.columns + j;
    if constexpr (eights) {
      const auto eight = static_cast<std::uint32_t>((row * a.W.d_in + column) / 8);
      const auto codes = packed_eight<f>(a.W, eight);
      const auto bits = packed_scale_bits<f>(a.W, row, eight);
      float y[8];
      packed_numbers<f>(codes, packed_scale<f>(bits, eight), map, y);
      constexpr int size = Pack<T>::size;
#pragma unroll
      for (int p = 0; p < 8 / size; ++p) {
        Pack<T> out;
#pragma unroll
        for (int e = 0; e < size; ++e) out.values[e] = static_cast<T>(y[p * size + e]);
        reinterpret_cast<Pack<T>*>(to)[p] = out;
      }
    } else {
      *to = static_cast<T>(packed_number<f>(a.W, row, column, map));
    }
  }
}

template <class T>
void launch_unpack(const UnpackNumbers<T>& a) {
  if (a.rows == 0 || a.columns == 0) return;
  const bool eights = unpacks_eights(a);
  const Index along = a.columns / (eights ? 8 : 1);
  const dim3 blocks(static_cast<unsigned>((along + unpack_threads - 1) / unpack_threads),
                    static_cast<unsigned>(std::min<Index>(a.rows, 65535)));
  with_packed_format(a.W.format, [&](auto f) {
    launch_early(eights ? unpack<f(), true, T> : unpack<f(), false, T>, blocks, unpack_threads, 0, a);
  });
}

}  // namespace mole::detail
