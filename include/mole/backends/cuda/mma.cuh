#pragma once
// A warp's products on the matrix units, by PTX: of bf16 or half, with sums in float. Compute capability 8.0 or more.
//
// A product is C [16, 8] += A [16, 16] B [16, 8]. With g = lane / 4 and t = lane % 4, a lane holds
//   C: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
//   A: pairs from (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8)       B: pairs down from (2t, g), (2t + 8, g)
// so that two neighbouring C are one A, once they are rounded.

#include <cstdint>

#include <mole/backends/cuda/pack.cuh>
#include <mole/core/scalar.hpp>

namespace mole::detail {

/// C += A B.
template <Narrow T>
__device__ __forceinline__ void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                             std::uint32_t b1) {
  if constexpr (std::is_same_v<T, bf16>)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// A of two neighbouring C.
template <Narrow T>
__device__ __forceinline__ void to_operand(const float (&left)[4], const float (&right)[4],
                                           std::uint32_t (&a)[4]) {
  a[0] = rounded_pair<T>(left[0], left[1]);
  a[1] = rounded_pair<T>(left[2], left[3]);
  a[2] = rounded_pair<T>(right[0], right[1]);
  a[3] = rounded_pair<T>(right[2], right[3]);
}

/// A matrix in shared memory, in rows of Pitch numbers: 8 more than a multiple of 16, so that a warp reads 8 rows without
/// two of them in one bank.
template <int Pitch, Narrow T>
struct SharedMatrix {
  const T* x;

  /// A: rows from `row`, columns from `column`.
  __device__ __forceinline__ void load_a(int row, int column, std::uint32_t (&a)[4]) const {
    const int lane = threadIdx.x % 32;
    load<false>(row + lane % 16, column + lane / 16 * 8, a);
  }
  /// B of a product with the matrix transposed, twice: columns of B are rows from `row` and from row + 8; down from
  /// `column`. b[0], b[1] are the first, b[2], b[3] the second.
  __device__ __forceinline__ void load_b_transposed(int row, int column, std::uint32_t (&b)[4]) const {
    const int lane = threadIdx.x % 32;
    load<false>(row + lane / 16 * 8 + lane % 8, column + lane / 8 % 2 * 8, b);
  }
  /// B of a product with the matrix, twice: down from `row`; columns from `column` and from column + 8.
  __device__ __forceinline__ void load_b(int row, int column, std::uint32_t (&b)[4]) const {
    const int lane = threadIdx.x % 32;
    load<true>(row + lane % 16, column + lane / 16 * 8, b);
  }

 private:
  template <bool Transposed>
  __device__ __forceinline__ void load(int row, int column, std::uint32_t (&r)[4]) const {
    const auto at = static_cast<std::uint32_t>(__cvta_generic_to_shared(x + row * Pitch + column));
    if constexpr (Transposed)
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                   : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                   : "r"(at)
                   : "memory");
    else
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                   : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                   : "r"(at)
                   : "memory");
  }
};

}  // namespace mole::detail
