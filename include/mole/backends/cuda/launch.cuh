#pragma once
// Launches that begin before the kernel ahead of them in the stream has ended (Hopper's programmatic dependent launch): in
// steps of short kernels much of the time goes between two of them.

#include <atomic>
#include <cstddef>

#include <mole/backends/cuda/context.cuh>

namespace mole::detail {

/// Returns once all that was launched before this kernel is complete; at once in a launch that did not begin early.
__device__ __forceinline__ void wait_for_earlier() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// The first line of a kernel of launch_early(): waits for what is ahead, then lets the next kernel begin. So whoever begins
/// early can rely on all kernels but the one ahead.
__device__ __forceinline__ void follow_earlier() {
  wait_for_earlier();
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Whether launches may begin early. On at the start; for all threads, and there to be measured.
inline std::atomic<bool>& early_launches() {
  static std::atomic<bool> on{true};
  return on;
}

template <int>
__global__ void early_probe() {}

/// Whether kernels of this program wait on this thread's device: code for devices before Hopper does not.
inline bool kernels_wait() {
  thread_local const bool wait = [] {
    cudaFuncAttributes found{};
    const bool known = cudaFuncGetAttributes(&found, early_probe<0>) == cudaSuccess;
    if (!known) cudaGetLastError();
    return known && found.ptxVersion >= 90 && found.binaryVersion >= 90;
  }();
  return wait;
}

/// Launches a kernel on this thread's stream, in clusters of so many blocks along x; with `early_wanted` set, early where that
/// is possible. In each of its threads the kernel must then call follow_earlier() or wait_for_earlier() before it reads what
/// the kernel ahead of it wrote, and before it writes.
template <class... P, class... A>
void launch_clusters(bool early_wanted, unsigned cluster, void (*kernel)(P...), dim3 blocks, dim3 threads,
                     std::size_t shared_bytes, const A&... arguments) {
  cudaLaunchAttribute attributes[2]{};
  cudaLaunchConfig_t config{};
  config.gridDim = blocks, config.blockDim = threads;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = cuda_context().stream;
  config.attrs = attributes;
  if (early_wanted && kernels_wait() && early_launches().load(std::memory_order_relaxed)) {
    auto& early = attributes[config.numAttrs++];
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    auto& together = attributes[config.numAttrs++];
    together.id = cudaLaunchAttributeClusterDimension;
    together.val.clusterDim.x = cluster, together.val.clusterDim.y = together.val.clusterDim.z = 1;
  }
  MOLE_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...));
}

/// The same without clusters.
template <class... P, class... A>
void launch_kernel(bool early_wanted, void (*kernel)(P...), dim3 blocks, dim3 threads,
                   std::size_t shared_bytes, const A&... arguments) {
  launch_clusters(early_wanted, 1, kernel, blocks, threads, shared_bytes, arguments...);
}

/// Launches it early.
template <class... P, class... A>
void launch_early(void (*kernel)(P...), dim3 blocks, dim3 threads, std::size_t shared_bytes,
                  const A&... arguments) {
  launch_kernel(true, kernel, blocks, threads, shared_bytes, arguments...);
}

}  // namespace mole::detail
