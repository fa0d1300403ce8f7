#pragma once
// 16 bytes of numbers, which a thread reads and writes in one go.

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include <mole/core/scalar.hpp>
#include <mole/core/shape.hpp>

namespace mole::detail {

/// The 16 bytes of numbers that a thread reads at once.
template <class T>
struct alignas(16) Pack {
  static constexpr int size = 16 / static_cast<int>(sizeof(T));
  T values[size];
};

/// 16 bytes. Not by __ldg: the compiler may move that ahead of a kernel's wait for what wrote them (launch.cuh).
template <class T>
__device__ __forceinline__ uint4 load_bits(const T* p) {
  return *reinterpret_cast<const uint4*>(p);
}
template <class T>
__device__ __forceinline__ Pack<T> load_pack(const T* p) {
  const auto bits = load_bits(p);
  return *reinterpret_cast<const Pack<T>*>(&bits);
}

/// The numbers of 16 bytes that were read as such. A Pack of numbers of two bytes takes twice the registers.
template <class T>
__device__ __forceinline__ void numbers_of(const uint4& bits, Compute<T> (&to)[Pack<T>::size]) {
  if constexpr (Narrow<T>) {
    const std::uint32_t pairs[] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (std::is_same_v<T, bf16>) {
        to[2 * i] = __uint_as_float(pairs[i] << 16);
        to[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
      } else {
        asm("{.reg .b16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}"
            : "=f"(to[2 * i]), "=f"(to[2 * i + 1])
            : "r"(pairs[i]));
      }
    }
  } else {
    const auto pack = *reinterpret_cast<const Pack<T>*>(&bits);
#pragma unroll
    for (int i = 0; i < Pack<T>::size; ++i) to[i] = pack.values[i];
  }
}

/// Two numbers, rounded, side by side.
template <Narrow T>
__device__ __forceinline__ std::uint32_t rounded_pair(float low, float high) {
  std::uint32_t pair;
  if constexpr (std::is_same_v<T, bf16>)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

/// Rounds numbers and writes them in one go. Assigned as a Pack, numbers of two bytes may be written one by one (nvcc 13.0).
template <class T>
__device__ __forceinline__ void store_pack(T* to, const Compute<T>* from) {
  if constexpr (Narrow<T>) {
    const std::uint32_t pairs[] = {rounded_pair<T>(from[0], from[1]), rounded_pair<T>(from[2], from[3]),
                                   rounded_pair<T>(from[4], from[5]), rounded_pair<T>(from[6], from[7])};
    asm volatile("st.v4.b32 [%0], {%1, %2, %3, %4};"
                 :
                 : "l"(to), "r"(pairs[0]), "r"(pairs[1]), "r"(pairs[2]), "r"(pairs[3])
                 : "memory");
  } else {
    Pack<T> pack;
#pragma unroll
    for (int k = 0; k < Pack<T>::size; ++k) pack.values[k] = from[k];
    *reinterpret_cast<Pack<T>*>(to) = pack;
  }
}

/// Whether what threads read 16 bytes of at a time begins and goes on in multiples of 16 bytes.
template <class T>
bool whole_packs(std::initializer_list<const T*> pointers, std::initializer_list<Index> extents) {
  return std::ranges::all_of(pointers,
                             [](const T* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }) &&
         std::ranges::all_of(extents, [](Index n) { return n % Pack<T>::size == 0; });
}

}  // namespace mole::detail
