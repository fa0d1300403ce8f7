#pragma once
// 16 bytes of numbers, which a thread reads and writes in one go.

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include <mole/core/shape.hpp>

namespace mole::detail {

/// The 16 bytes of numbers that a thread reads at once.
template <class T>
struct alignas(16) Pack {
  static constexpr int size = 16 / static_cast<int>(sizeof(T));
  T values[size];
};

/// Not by __ldg: the compiler may move that ahead of a kernel's wait for what wrote it (launch.cuh).
template <class T>
__device__ __forceinline__ Pack<T> load_pack(const T* p) {
  const auto bits = *reinterpret_cast<const uint4*>(p);
  return *reinterpret_cast<const Pack<T>*>(&bits);
}

/// Whether what threads read 16 bytes of at a time begins and goes on in multiples of 16 bytes.
template <class T>
bool whole_packs(std::initializer_list<const T*> pointers, std::initializer_list<Index> extents) {
  return std::ranges::all_of(pointers,
                             [](const T* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }) &&
         std::ranges::all_of(extents, [](Index n) { return n % Pack<T>::size == 0; });
}

}  // namespace mole::detail
