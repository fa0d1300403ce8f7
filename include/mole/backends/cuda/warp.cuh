#pragma once
// What the 32 lanes of a warp make of a value each: all of them get the same result, in the same order of
// additions every time.

namespace mole::detail {

template <class V>
__device__ V sum_over_warp(V value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

template <class V>
__device__ V max_over_warp(V value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const V other = __shfl_xor_sync(0xffffffffu, value, step);
    value = other > value ? other : value;
  }
  return value;
}

}  // namespace mole::detail
