#pragma once
// Launches that begin before the one ahead of them in the stream has ended (Hopper's programmatic dependent launch). In a
// step of short kernels most of the time between two of them goes that way.
//
// What a kernel must keep to:
//   - wait_for_earlier() comes before it reads what the launch ahead wrote, and before it writes at all. Until then it may
//     read what was complete when the launch ahead began.
//   - let_next_begin() comes after wait_for_earlier(), so that the next kernel can rely on all but this one.

#include <atomic>
#include <cstddef>

#include <mole/backends/cuda/context.cuh>

namespace mole::detail {

/// Returns once all that was launched before this kernel is complete. At once in a launch that did not begin early.
__device__ __forceinline__ void wait_for_earlier() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// The next kernel may begin once all blocks of this one have come here.
__device__ __forceinline__ void let_next_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Whether launches may begin early. On at the start; for all threads, and there to be measured.
inline std::atomic<bool>& early_launches() {
  static std::atomic<bool> on{true};
  return on;
}

/// Launches a kernel that calls wait_for_earlier() in every thread that needs it; early, where its code was compiled for
/// devices that can. Code for older ones would not wait.
template <class... P, class... A>
void launch_early(void (*kernel)(P...), dim3 blocks, dim3 threads, std::size_t shared_bytes,
                  const A&... arguments) {
  thread_local const bool waits = [kernel] {
    cudaFuncAttributes found{};
    const bool known = cudaFuncGetAttributes(&found, kernel) == cudaSuccess;
    if (!known) cudaGetLastError();
    return known && found.ptxVersion >= 90 && found.binaryVersion >= 90;
  }();
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = blocks, config.blockDim = threads;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = cuda_context().stream;
  config.attrs = &early;
  config.numAttrs = waits && early_launches().load(std::memory_order_relaxed) ? 1 : 0;
  MOLE_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...));
}

}  // namespace mole::detail
