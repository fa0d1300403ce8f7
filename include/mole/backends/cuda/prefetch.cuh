#pragma once
// Memory that is asked for before it is needed.

#include <mole/core/shape.hpp>

namespace mole::detail {

/// Asks for `bytes` from p on to be in the second cache soon, shared out among the first `threads` threads of their
/// number. It reads nothing that a thread sees: so a kernel that begins early may ask before it waits (launch.cuh), even
/// where the kernel ahead still writes there. What a decoder's step waits for is its weights, on their way from memory.
__device__ __forceinline__ void prefetch(const void* p, Index bytes, int thread, int threads) {
  constexpr int line = 128;
  const auto* const from = static_cast<const char*>(p);
  for (Index at = Index{line} * thread; at < bytes; at += Index{line} * threads)
    asm volatile("prefetch.global.L2 [%0];" : : "l"(from + at));
}

}  // namespace mole::detail
